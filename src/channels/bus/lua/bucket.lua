-- What counts how often something is done; it stands before the scripts that use it.

-- The server's time in milliseconds.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Takes one of what refills so fast a second and holds as many; how long to wait (ms) when there is none. A moment that is ahead of
-- the clock is one of before it was set back: what has refilled since is not known and not given, and from now on it is counted anew.
local function take(hash, per_second, now)
  local kept = redis.call('HMGET', hash, 'tokens', 'refilled')
  local tokens, at = tonumber(kept[1]), tonumber(kept[2])
  local ahead = at and at > now
  if tokens and at then
    tokens = math.max(0, math.min(per_second, tokens + math.max(0, now - at) * per_second / 1000))
  else
    tokens = per_second
  end
  local late
  if tokens < 1 then
    late = math.max(1, math.ceil((1 - tokens) * 1000 / per_second))
  else
    tokens = tokens - 1
  end
  -- What is refused changes nothing but a moment that would stop the refilling.
  if not late or ahead then
    redis.call('HSET', hash, 'tokens', string.format('%.6f', tokens), 'refilled', string.format('%.0f', now))
  end
  return late
end
