-- Removes a part of what a dead life left on a channel into a grave, which is whoever's was answered it to tell, and to say so (close.lua).
-- One that has not been closed in its time is answered to the next who asks, without those who came back meanwhile.
-- KEYS: members, users, what that life entered, occupancy, answers, mark of a crowd, grave.
-- ARGV: life, most clients, crowd above, crowd below, name of a new grave, how long it is the caller's (ms), how long it is kept (ms).
-- A grave is a list: its name, until when it is somebody's, subscribers before and after, whether a crowd ended by it (2), then for each
-- client its name, its user, 1 or 0 for the last of its user, and its info. Answers {} when it is somebody's, or {its name or nothing, clients, users, crowded, subscribers
-- before, now, clients still to be removed, then for each removed one 1 or 0 for the last of its user, and its info}.
local members, users, theirs, occupancy, answers, crowd, grave = unpack(KEYS)
local life = ARGV[1]
local now = now_ms()
local mine = string.format('%.0f', now + tonumber(ARGV[6]))

local known = redis.call('LRANGE', grave, 0, -1)
local before, told = sum(occupancy), {}
local clients, crowded
if #known > 0 then
  if tonumber(known[2]) > now then return {} end
  redis.call('LSET', grave, 1, mine)
  for i = 6, #known, 4 do
    if redis.call('HEXISTS', members, known[i]) == 0 then
      told[#told + 1] = (known[i + 2] == '1' and redis.call('HEXISTS', users, known[i + 1]) == 0) and 1 or 0
      told[#told + 1] = known[i + 3]
    end
  end
  -- What others have made of the subscribers since they have told.
  local was, left = tonumber(known[3]), tonumber(known[4])
  if was ~= left and (before > 0 or left == 0) then before = was end
  clients, crowded = judge(members, crowd, ARGV[3], ARGV[4])
  if crowded == 0 then crowded = tonumber(known[5]) end
else
  known = {ARGV[5], mine, before, before, 0}
  for _ = 1, tonumber(ARGV[2]) do
    local client = redis.call('SPOP', theirs)
    if not client then break end
    local entry = redis.call('HGET', members, client)
    if entry then
      local whose, length, at = string.match(entry, '^([^\t]*)\t(%d+)\t()')
      -- One that this node's next life has entered is not gone.
      if whose == life then
        local user, info = string.sub(entry, at, at + tonumber(length) - 1), string.sub(entry, at + tonumber(length))
        redis.call('HDEL', members, client)
        local last = 0
        if redis.call('HINCRBY', users, user, -1) <= 0 then
          redis.call('HDEL', users, user)
          last = 1
        end
        for _, kept in ipairs({client, user, last, info}) do known[#known + 1] = kept end
        told[#told + 1] = last
        told[#told + 1] = info
      end
    end
  end
  if redis.call('EXISTS', theirs) == 0 then
    redis.call('HDEL', occupancy, life)
    redis.call('HDEL', answers, life)
  end
  clients, crowded = judge(members, crowd, ARGV[3], ARGV[4])
  known[4] = sum(occupancy)
  if crowded == 2 then known[5] = 2 end
  if #told > 0 or known[3] ~= known[4] then
    redis.call('RPUSH', grave, unpack(known))
    redis.call('PEXPIRE', grave, ARGV[7])
  else
    known[1] = ''
  end
end

local rest = redis.call('SCARD', theirs)
return {known[1], clients, redis.call('HLEN', users), crowded, before, sum(occupancy), rest, unpack(told)}
