-- A node goes: what it left is to be buried now (0), or when it has been held for so long. KEYS: lives. ARGV: life, hold (ms).
local hold = tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], 'XX', hold > 0 and string.format('%.0f', now_ms() + hold) or 0, ARGV[1])
return 1
