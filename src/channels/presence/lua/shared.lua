-- What several scripts of presence share; it stands before each of them.

-- The server's time in milliseconds.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- How many subscribers all lives have.
local function sum(occupancy)
  local all = 0
  for _, subscribers in ipairs(redis.call('HVALS', occupancy)) do all = all + tonumber(subscribers) end
  return all
end

-- Clients of a channel, and 1 when they are a crowd: above one number, and from then on until they are below another; 2 for the one call
-- that finds it over.
local function judge(members, crowd, above, below)
  local clients = redis.call('HLEN', members)
  if clients > tonumber(above) then
    redis.call('SET', crowd, 1)
    return clients, 1
  end
  if clients >= tonumber(below) then return clients, redis.call('EXISTS', crowd) end
  return clients, redis.call('DEL', crowd) == 1 and 2 or 0
end

-- Lives that answers are kept of without a look at their age.
local FEW = 16

-- Keeps the answer to a life's newest ticket for so long, with the moment behind it. A life that answers here for the first time
-- takes those along that have not been asked for within that time: nodes that left the channel, and were never buried on it.
local function remember(answers, life, known, ticket, answer, keep)
  local now = now_ms()
  redis.call('HSET', answers, life, string.format('%.0f', ticket) .. ' ' .. answer .. ' @' .. string.format('%.0f', now))
  redis.call('PEXPIRE', answers, keep)
  if known or redis.call('HLEN', answers) <= FEW then return end
  local all = redis.call('HGETALL', answers)
  for i = 1, #all, 2 do
    local at = string.match(all[i + 1], ' @(%d+)$')
    if not at or tonumber(at) + tonumber(keep) < now then redis.call('HDEL', answers, all[i]) end
  end
end
