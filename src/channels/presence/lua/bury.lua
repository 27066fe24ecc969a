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

local rest, before = redis.call('SCARD', theirs), sum(occupancy)
if rest == 0 then
  redis.call('HDEL', occupancy, life)
  redis.call('HDEL', answers, life)
end
local clients, crowded = judge(members, crowd, ARGV[3], ARGV[4])
return {clients, redis.call('HLEN', users), crowded, before, sum(occupancy), rest, unpack(told)}
