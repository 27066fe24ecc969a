-- A node's life goes on, or another begins.
-- KEYS: lives (life -> until when, ms), those that are being buried, those that have been (life -> when), those that their nodes
--       left for another (life -> when they are to be buried).
-- ARGV: life or nothing, the next one, lease (ms), how long the buried are remembered (ms), 1 when the next is to begin in any case.
-- When no life goes on any more it is this server that was away, and not all nodes: each has one lease more in which to come back, those
-- aside that their nodes ended (0); what such a node left that was still held then waits for it as well. The same when a node that lives finds that nobody has renewed for half a lease: some lives may have
-- ended already, and it must not bury who is about to come back.
-- Answers 0 when it goes on, 1 when another began and nobody tells of the last one's members, 2 when somebody does. Said again
-- after its answer was lost it answers the same.
local lives, dying, buried, left = unpack(KEYS)
local now, lease = now_ms(), tonumber(ARGV[3])
local stop = string.format('%.0f', now + lease)
local newest = redis.call('ZREVRANGE', lives, 0, 0, 'WITHSCORES')[2]
local away = ARGV[1] ~= '' and now + lease / 2 or now
if newest and tonumber(newest) <= away then
  for _, key in ipairs({lives, left}) do
    for _, waits in ipairs(redis.call('ZRANGEBYSCORE', key, '(0', stop)) do
      redis.call('ZADD', key, stop, waits)
    end
  end
end
local life, told = ARGV[1], 2
if life ~= '' then
  if ARGV[5] ~= '1' and redis.call('ZSCORE', lives, life) then
    redis.call('ZADD', lives, stop, life)
    return 0
  end
  if not redis.call('ZSCORE', dying, life) and not redis.call('ZSCORE', buried, life) then
    -- What may be left of it is buried once all who are here have had the time to be entered in the next.
    redis.call('ZREM', lives, life)
    redis.call('ZADD', left, stop, life)
    told = 1
  end
end
redis.call('ZADD', lives, stop, ARGV[2])
redis.call('ZREMRANGEBYSCORE', buried, '-inf', string.format('%.0f', now - tonumber(ARGV[4])))
return told
