-- Clients of one node come and go on a channel: all of it in one atomic step, once for each ticket.
-- KEYS: members (client -> entry), users (user -> clients), what this life entered, what the life before it did, answers
--       (life -> ticket and answer), mark of a crowd, occupancy.
-- ARGV: life, ticket, crowd above, crowd below, how long answers are kept (ms), then for each change `+` client user info or
--       `-` client user and nothing.
-- An entry is `life \t length of the user \t user info`. Answers {a digit for each change, clients, users, crowded, nothing of
-- this life is left}, crowded being 1, or 2 when it has just ended; digits: 1 new or gone, 2 no other client of its user is there. {} when a later ticket was used.
local members, users, mine, before, answers, crowd, occupancy = unpack(KEYS)
local life, ticket = ARGV[1], tonumber(ARGV[2])

local function answer(text)
  local digits, clients, persons, crowded, left = string.match(text, '^([0-3]*) (%d+) (%d+) (%d) (%d)$')
  return {digits, tonumber(clients), tonumber(persons), tonumber(crowded), tonumber(left)}
end

local known = redis.call('HGET', answers, life)
if known then
  local used, kind, text = string.match(known, '^(%d+) (%a) ([^@]*) @')
  used = tonumber(used)
  if used == ticket and kind == 'c' then return answer(text) end
  if used >= ticket then return {} end
end

local function read(entry)
  local whose, length, at = string.match(entry, '^([^\t]*)\t(%d+)\t()')
  return whose, string.sub(entry, at, at + tonumber(length) - 1)
end

local function leave(user)
  if redis.call('HINCRBY', users, user, -1) <= 0 then redis.call('HDEL', users, user) end
end

-- A call that was overtaken by this node's next life must not take a client back into the last one.
local function older(whose)
  local node, at = string.match(life, '^(.*)%.(%d+)$')
  local other, later = string.match(whose, '^(.*)%.(%d+)$')
  return node == other and tonumber(at) < tonumber(later)
end

local digits = {}
for i = 6, #ARGV, 4 do
  local client, user = ARGV[i + 1], ARGV[i + 2]
  local entry, digit = redis.call('HGET', members, client), 0
  local whose, was
  if entry then whose, was = read(entry) end
  if ARGV[i] == '+' then
    if not (entry and older(whose)) then
      redis.call('HSET', members, client, life .. '\t' .. #user .. '\t' .. user .. ARGV[i + 3])
      redis.call('SADD', mine, client)
      redis.call('SREM', before, client)
      if not entry then digit = 1 end
      if was ~= user then
        if was then leave(was) end
        redis.call('HINCRBY', users, user, 1)
      end
      if redis.call('HGET', users, user) == '1' then digit = digit + 2 end
    end
  else
    if entry then
      digit, user = 1, was
      redis.call('HDEL', members, client)
      redis.call('SREM', mine, client)
      redis.call('SREM', before, client)
      leave(user)
    end
    if redis.call('HEXISTS', users, user) == 0 then digit = digit + 2 end
  end
  digits[#digits + 1] = digit
end

local clients, crowded = judge(members, crowd, ARGV[3], ARGV[4])
local left = redis.call('EXISTS', mine) + redis.call('HEXISTS', occupancy, life) == 0 and 1 or 0
local text = table.concat(digits) .. ' ' .. clients .. ' ' .. redis.call('HLEN', users) .. ' ' .. crowded .. ' ' .. left
remember(answers, life, known, ticket, 'c ' .. text, ARGV[5])
return answer(text)
