-- Removes a part of what a dead life left on a channel. Whoever calls this tells what it answers; nobody else is answered the same.
-- KEYS: members, users, what that life entered, occupancy, answers, mark of a crowd.
-- ARGV: life, most clients, crowd above, crowd below.
-- Answers {clients, users, crowded, subscribers before, now, clients still to be removed, then for each removed one 1 or 0 for
-- the last of its user, and its info}.
local members, users, theirs, occupancy, answers, crowd = unpack(KEYS)
local life = ARGV[1]
local told = {}
for _ = 1, tonumber(ARGV[2]) do
  local client = redis.call('SPOP', theirs)
  if not client then break end
  local entry = redis.call('HGET', members, client)
  if entry then
    local whose, length, at = string.match(entry, '^([^\t]*)\t(%d+)\t()')
    -- One that this node's next life has entered is not gone.
    if whose == life then
      local user = string.sub(entry, at, at + tonumber(length) - 1)
      redis.call('HDEL', members, client)
      local last = 0
      if redis.call('HINCRBY', users, user, -1) <= 0 then
        redis.call('HDEL', users, user)
        last = 1
      end
      told[#told + 1] = last
      told[#told + 1] = string.sub(entry, at + tonumber(length))
    end
  end
end

local function sum()
  local all = 0
  for _, subscribers in ipairs(redis.call('HVALS', occupancy)) do all = all + tonumber(subscribers) end
  return all
end

local rest, before = redis.call('SCARD', theirs), sum()
if rest == 0 then
  redis.call('HDEL', occupancy, life)
  redis.call('HDEL', answers, life)
end
local clients, crowded = redis.call('HLEN', members), 0
if clients > tonumber(ARGV[3]) then
  crowded = 1
  redis.call('SET', crowd, 1)
elseif clients >= tonumber(ARGV[4]) then
  crowded = redis.call('EXISTS', crowd)
else
  redis.call('DEL', crowd)
end
return {clients, redis.call('HLEN', users), crowded, before, sum(), rest, unpack(told)}
