-- Lives that are to be buried: from here on none of them can be renewed. When not even the newest goes on, it is this server that was
-- away and not all of them: nobody is buried until somebody has renewed.
-- KEYS: lives, those that are being buried, those that their nodes left. ARGV: most.
local now = now_ms()
local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if newest and tonumber(newest) > now then
  local until_now = string.format('%.0f', now)
  for _, from in ipairs({KEYS[1], KEYS[3]}) do
    for _, life in ipairs(redis.call('ZRANGEBYSCORE', from, '-inf', until_now, 'LIMIT', 0, ARGV[1])) do
      redis.call('ZREM', from, life)
      redis.call('ZADD', KEYS[2], until_now, life)
    end
  end
end
return redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[1]) - 1)
