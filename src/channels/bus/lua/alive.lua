-- A node lives for one more lease. The dead are remembered for a while: what they left behind is still to be found.
-- KEYS: nodes (sorted set: node, until when it lives in ms). ARGV: node, lease (ms), how long the dead are remembered (ms).
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lease, remembered = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + lease), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - remembered))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', lease + remembered))
return 1
