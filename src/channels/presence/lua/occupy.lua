-- A node has so many subscribers of a channel: set once for each ticket, so that an edge is seen by whoever makes it.
-- KEYS: occupancy (life -> subscribers), answers (life -> ticket and answer), what this life entered.
-- ARGV: life, the life before it or nothing, ticket, subscribers, how long answers are kept (ms).
-- Answers {before, now, nothing of this life is left}; {} when a later ticket was used.
local occupancy, answers, mine = unpack(KEYS)
local life, ticket = ARGV[1], tonumber(ARGV[3])
local known = redis.call('HGET', answers, life)
if known then
  local used, kind, before, now, left = string.match(known, '^(%d+) (%a) (%d+) (%d+) (%d) @')
  used = tonumber(used or string.match(known, '^%d+'))
  if used == ticket and kind == 'o' then return {tonumber(before), tonumber(now), tonumber(left)} end
  if used >= ticket then return {} end
end

local before = sum(occupancy)
if ARGV[2] ~= '' then redis.call('HDEL', occupancy, ARGV[2]) end
if ARGV[4] == '0' then redis.call('HDEL', occupancy, life) else redis.call('HSET', occupancy, life, ARGV[4]) end
local now = sum(occupancy)
local left = (ARGV[4] == '0' and redis.call('EXISTS', mine) == 0) and 1 or 0
remember(answers, life, known, ticket, string.format('o %.0f %.0f %d', before, now, left), ARGV[5])
return {before, now, left}
