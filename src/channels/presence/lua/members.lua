-- A part of a channel's members, and how many there are of all. Writes nothing.
-- KEYS: members, users, mark of a crowd. ARGV: cursor, about how many; 0 for none.
-- Answers {clients, users, crowded, next cursor, infos...}.
local clients, users = redis.call('HLEN', KEYS[1]), redis.call('HLEN', KEYS[2])
local answer = {clients, users, redis.call('EXISTS', KEYS[3]), '0'}
if ARGV[2] == '0' then return answer end
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
answer[4] = page[1]
local entries = page[2]
for i = 2, #entries, 2 do
  local _, length, at = string.match(entries[i], '^([^\t]*)\t(%d+)\t()')
  answer[#answer + 1] = string.sub(entries[i], at + tonumber(length))
end
return answer
