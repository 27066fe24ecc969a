-- Appends a run that starts at top + 1 of the known epoch, trims the history and tells the subscribers: one atomic step.
-- KEYS: position hash, history list.
-- ARGV: channel, epoch, first offset, most entries, most bytes, greatest age (ms), how long the position is kept (ms),
--       the living primaries of the cluster (first eight characters of each), then the publications in their bus form.
-- First offset 0: publishes on an application's stream at whatever comes next; publications are without the two numbers
-- at their front. The epoch is then the one to begin with, where there is none or one of a primary (first eight characters)
-- that is neither this one nor alive: what a living one kept has been moved here, and is this one's from now on.
-- Answers {accepted | duplicate | gap, top, epoch}; {gap} alone when nothing is known.
local ACCEPTED, DUPLICATE, GAP = 1, 2, 3
local position, history = KEYS[1], KEYS[2]
local known = redis.call('HMGET', position, 'epoch', 'top', 'bytes', 'keeper')
local epoch, top = known[1], tonumber(known[2])
local first = tonumber(ARGV[3])
local publishes = first == 0
if publishes then
  local own = string.sub(ARGV[2], 1, 8)
  local keeper = known[4] or (epoch and string.sub(epoch, 1, 8))
  if not epoch or not top or (keeper ~= own and not (#keeper == 8 and string.find(ARGV[8], keeper, 1, true))) then
    epoch, top = ARGV[2], 0
    redis.call('DEL', position, history)
    redis.call('HSET', position, 'epoch', epoch, 'top', 0, 'bytes', 0)
  elseif keeper ~= own then
    redis.call('HSET', position, 'keeper', own)
  end
  first = top + 1
end
if not epoch or not top then return {GAP} end
if not publishes and (epoch ~= ARGV[2] or first > top + 1) then return {GAP, top, epoch} end
if first <= top then return {DUPLICATE, top, epoch} end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local stamp = string.format('%.0f\n', now)
local length = redis.call('LLEN', history)
-- The list may have expired alone: its bytes went with it.
local bytes = length > 0 and tonumber(known[3]) or 0

local entries, message = {}, {epoch, '\n'}
for i = 9, #ARGV do
  local publication = ARGV[i]
  if publishes then
    local offset = string.format('%.0f', top + i - 8)
    publication = offset .. '\t' .. offset .. publication
  end
  entries[#entries + 1] = stamp .. publication
  message[#message + 1] = struct.pack('>I4', #publication)
  message[#message + 1] = publication
  bytes = bytes + #stamp + #publication
end
length = redis.call('RPUSH', history, unpack(entries))

local most, most_bytes, horizon = tonumber(ARGV[4]), tonumber(ARGV[5]), now - tonumber(ARGV[6])
while length > 0 do
  if length <= most and bytes <= most_bytes then
    local oldest = redis.call('LINDEX', history, 0)
    if tonumber(string.match(oldest, '^%d+')) >= horizon then break end
  end
  bytes = bytes - #redis.call('LPOP', history)
  length = length - 1
end

top = redis.call('HINCRBY', position, 'top', #entries)
redis.call('HSET', position, 'bytes', string.format('%.0f', bytes))
redis.call('PEXPIRE', history, ARGV[6])
redis.call('PEXPIRE', position, ARGV[7])
redis.call('PUBLISH', ARGV[1], table.concat(message))
return {ACCEPTED, top, epoch}
