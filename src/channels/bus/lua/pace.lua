-- Counts one more of what somebody does, if it is not one too many. KEYS: what they may still do. ARGV: how often a second.
-- Answers 0, or how long to wait (ms).
local per_second = tonumber(ARGV[1])
local late = take(KEYS[1], per_second, now_ms())
-- Whoever has rested for a second has all of it again, and is forgotten.
redis.call('PEXPIRE', KEYS[1], 2000)
return late or 0
