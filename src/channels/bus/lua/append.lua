-- Appends a run that starts at top + 1 of the known epoch, trims the history and tells the subscribers: one atomic step.
-- KEYS: position hash, history list, and where a publisher's key is given the hash of such keys.
-- ARGV: channel, epoch, first offset, most entries, most bytes, greatest age (ms), how long the position is kept (ms),
--       the living primaries of the cluster (first eight characters of each), how many conditions follow (0 or 6), those, then the
--       publications in their bus form.
-- First offset 0: publishes on an application's stream at whatever comes next; publications are without the two numbers
-- at their front. The epoch is then the one to begin with, where there is none or one of a primary (first eight characters)
-- that is neither this one nor alive: what a living one kept has been moved here, and is this one's from now on.
-- Conditions, each empty where there is none: publisher's key, how long that is remembered (ms), version (20 digits), its epoch,
-- publications a second, and a message to tell instead of publications: that has no offset, and begins no stream.
-- Answers {accepted | duplicate | gap, top, epoch}; {gap} alone when nothing is known; {again, top (0: it was told), epoch};
-- {older, top, epoch}; {too many, how long to wait (ms)}; {told}.
local ACCEPTED, DUPLICATE, GAP, AGAIN, OLDER, TOO_MANY, TOLD = 1, 2, 3, 4, 5, 6, 7
-- Keys that are too old are dropped when another comes, at most so many: what is left has time until the next.
local DROPPED = 4
local position, history = KEYS[1], KEYS[2]
local known = redis.call('HMGET', position, 'epoch', 'top', 'bytes', 'keeper')
local epoch, top = known[1], tonumber(known[2])
local first, conditions = tonumber(ARGV[3]), tonumber(ARGV[9])
local publishes = first == 0
local key, window, version, version_epoch, pace, word = '', '0', '', '', '', ''
if conditions > 0 then key, window, version, version_epoch, pace, word = unpack(ARGV, 10, 9 + conditions) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- The answer to a publisher's key, while it is remembered.
local function answered()
  local said = redis.call('HGET', KEYS[3], 'k' .. key)
  if not said then return nil end
  local ends, offset, of = string.match(said, '^(%d+) (%d+) (.*)$')
  if tonumber(ends) <= now then return nil end
  return {AGAIN, tonumber(offset), of}
end

-- Remembers the answer. Beside the answers stand the keys in the order in which they came, by number.
local function remember(offset, of)
  if key == '' then return end
  local ring = redis.call('HMGET', KEYS[3], 'first', 'next')
  local oldest, next = tonumber(ring[1]) or 1, tonumber(ring[2]) or 1
  for _ = 1, DROPPED do
    if oldest >= next then break end
    local name = redis.call('HGET', KEYS[3], string.format('%.0f', oldest))
    local said = name and redis.call('HGET', KEYS[3], 'k' .. name)
    if said and tonumber(string.match(said, '^%d+')) > now then break end
    redis.call('HDEL', KEYS[3], string.format('%.0f', oldest), 'k' .. (name or ''))
    oldest = oldest + 1
  end
  local ends = string.format('%.0f', now + tonumber(window))
  redis.call('HSET', KEYS[3], 'k' .. key, ends .. ' ' .. string.format('%.0f', offset) .. ' ' .. of,
    string.format('%.0f', next), key, 'first', string.format('%.0f', oldest), 'next', string.format('%.0f', next + 1))
  -- Another node may have promised more, as while the window is being made shorter.
  if redis.call('PTTL', KEYS[3]) < tonumber(window) then redis.call('PEXPIRE', KEYS[3], window) end
end

-- How long to wait, if the channel has had all that it may have; else counts one more.
local function wait()
  local per_second = tonumber(pace)
  local held = redis.call('HMGET', position, 'tokens', 'refilled')
  local tokens, at = tonumber(held[1]), tonumber(held[2])
  tokens = tokens and at and math.min(per_second, tokens + math.max(0, now - at) * per_second / 1000) or per_second
  if tokens < 1 then return math.max(1, math.ceil((1 - tokens) * 1000 / per_second)) end
  redis.call('HSET', position, 'tokens', string.format('%.6f', tokens - 1), 'refilled', string.format('%.0f', now))
end

if key ~= '' then
  local before = answered()
  if before then return before end
end
if word ~= '' then
  -- Of what has no position nobody listens, and nothing has to be counted.
  local late = pace ~= '' and epoch and wait()
  if late then return {TOO_MANY, late} end
  redis.call('PUBLISH', ARGV[1], word)
  remember(0, '')
  return {TOLD}
end
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
if version ~= '' then
  local last = redis.call('HMGET', position, 'version', 'version_epoch')
  local of_last = version_epoch == '' or version_epoch == (last[2] or '')
  if last[1] and of_last and version <= last[1] then
    remember(top, epoch)
    return {OLDER, top, epoch}
  end
end
if pace ~= '' then
  local late = wait()
  if late then return {TOO_MANY, late} end
end

local stamp = string.format('%.0f\n', now)
local length = redis.call('LLEN', history)
-- The list may have expired alone: its bytes went with it.
local bytes = length > 0 and tonumber(known[3]) or 0

local before = 9 + conditions
local entries, message = {}, {epoch, '\n'}
for i = before + 1, #ARGV do
  local publication = ARGV[i]
  if publishes then
    local offset = string.format('%.0f', top + i - before)
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
if version ~= '' then
  -- An empty epoch stands for that of the last.
  redis.call('HSET', position, 'version', version)
  if version_epoch ~= '' then redis.call('HSET', position, 'version_epoch', version_epoch) end
end
redis.call('PEXPIRE', history, ARGV[6])
redis.call('PEXPIRE', position, ARGV[7])
redis.call('PUBLISH', ARGV[1], table.concat(message))
remember(top, epoch)
return {ACCEPTED, top, epoch}
