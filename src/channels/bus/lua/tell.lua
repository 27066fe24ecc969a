-- A word to one node that is alive, or to all. KEYS: nodes. ARGV: channel, message, the node, or none for all.
-- Answers 1, or 0 when that node is dead or does not listen.
local node = ARGV[3]
if node then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local alive_until = redis.call('ZSCORE', KEYS[1], node)
  if not alive_until or tonumber(alive_until) <= now then return 0 end
end
local listeners = redis.call('PUBLISH', ARGV[1], ARGV[2])
if node and listeners == 0 then return 0 end
return 1
