-- Whose turn it is to tell how many subscribers a channel has: one call in this time is answered with the number, others with nil.
-- KEYS: turn, occupancy. ARGV: time (ms).
if not redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) then return false end
return sum(KEYS[2])
