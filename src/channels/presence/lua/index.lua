-- The channels in which a life has something. KEYS: channels (sorted by name).
-- ARGV: `+` or `-` and a channel to add or remove; or `?`, from, to as ranges of names have them, and most.
if ARGV[1] == '+' then return redis.call('ZADD', KEYS[1], 0, ARGV[2]) end
if ARGV[1] == '-' then return redis.call('ZREM', KEYS[1], ARGV[2]) end
return redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
