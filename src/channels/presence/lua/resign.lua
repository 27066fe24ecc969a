-- A node goes: what it left may be buried now. KEYS: lives. ARGV: life.
redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])
return 1
