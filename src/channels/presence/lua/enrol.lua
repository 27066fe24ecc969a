-- A copy of the list of lives, one of several in different places: should the list be lost, and a node end in that moment, what it left is
-- found all the same. KEYS: a copy. ARGV: `+` and a life to add, `-` and lives to remove, `?` to read.
if ARGV[1] == '+' then return redis.call('SADD', KEYS[1], ARGV[2]) end
if ARGV[1] == '-' then return redis.call('SREM', KEYS[1], unpack(ARGV, 2)) end
return redis.call('SMEMBERS', KEYS[1])
