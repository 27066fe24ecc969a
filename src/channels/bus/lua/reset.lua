-- Forgets a stream and starts it again, unless it is already in that epoch at or above that offset.
-- KEYS: position hash, history list. ARGV: channel, epoch, offset, how long the position is kept (ms).
local position, history = KEYS[1], KEYS[2]
local known = redis.call('HMGET', position, 'epoch', 'top')
if known[1] == ARGV[2] and known[2] and tonumber(known[2]) >= tonumber(ARGV[3]) then return 0 end
-- Each by itself: a server that does not have the slot yet takes two only when it has both.
redis.call('DEL', position)
redis.call('DEL', history)
redis.call('HSET', position, 'epoch', ARGV[2], 'top', ARGV[3], 'bytes', 0)
redis.call('PEXPIRE', position, ARGV[4])
-- An event without publications: check your position.
redis.call('PUBLISH', ARGV[1], ARGV[2] .. '\n')
return 1
