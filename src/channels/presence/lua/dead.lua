-- Lives that are to be buried: from here on none of them can be renewed.
-- KEYS: lives, those that are being buried, those that their nodes left. ARGV: most.
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
for _, from in ipairs({KEYS[1], KEYS[3]}) do
  for _, life in ipairs(redis.call('ZRANGEBYSCORE', from, '-inf', now, 'LIMIT', 0, ARGV[1])) do
    redis.call('ZREM', from, life)
    redis.call('ZADD', KEYS[2], now, life)
  end
end
return redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[1]) - 1)
