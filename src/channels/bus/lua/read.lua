-- The position and what follows an offset, in one snapshot. Writes nothing.
-- KEYS: position hash, history list.
-- ARGV: after, most entries, most bytes, greatest age (ms), the primaries whose streams count (first eight characters of each, none: all).
-- Answers {epoch, top, complete (1 or 0), entries...}, each entry `milliseconds \n publication`; nil when nothing is known.
local position, history = KEYS[1], KEYS[2]
local known = redis.call('HMGET', position, 'epoch', 'top', 'keeper')
local epoch, top = known[1], tonumber(known[2])
if not epoch or not top then return false end
if ARGV[5] ~= '' and not string.find(ARGV[5], known[3] or string.sub(epoch, 1, 8), 1, true) then return false end

-- A page is read before its bytes are known: small enough that a page of 32 KiB documents is nothing.
local PAGE = 32
local time = redis.call('TIME')
local horizon = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[4])
local first = top + 1 - redis.call('LLEN', history)
local at, most, room = tonumber(ARGV[1]) + 1, tonumber(ARGV[2]), tonumber(ARGV[3])
local complete, taken = 1, 0
local answer = {epoch, top, complete}
if at < first then
  complete, at = 0, first
end
while at <= top and taken < most do
  local page = redis.call('LRANGE', history, at - first, math.min(at + PAGE, at + most - taken, top + 1) - 1 - first)
  if #page == 0 then break end
  for _, entry in ipairs(page) do
    if taken == 0 and tonumber(string.match(entry, '^%d+')) < horizon then
      complete = 0
    else
      if taken > 0 and #entry > room then
        answer[3] = complete
        return answer
      end
      room = room - #entry
      taken = taken + 1
      answer[3 + taken] = entry
    end
    at = at + 1
  end
  if room <= 0 then break end
end
answer[3] = complete
return answer
