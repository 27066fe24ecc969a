-- All that was in a grave has been told. KEYS: grave, what that life entered. ARGV: name of the grave.
-- Answers 1 when nothing of that life is left on the channel.
if redis.call('LINDEX', KEYS[1], 0) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return redis.call('EXISTS', unpack(KEYS)) == 0 and 1 or 0
