-- Appends a run that starts at top + 1 of the known epoch, trims the history and tells the subscribers: one atomic step.
-- KEYS: position hash, history list, and where a publisher's key is given the hash of such keys, last. Of what nothing keeps: the
--       position where there is a pace, and the hash of keys where there is a key; what is not needed cannot be somewhere else.
-- ARGV: channel, epoch, first offset, most entries, most bytes, greatest age (ms), how long the position is kept (ms),
--       the living primaries of the cluster (first eight characters of each), how many conditions follow (0 or 9), those, then the
--       publications in their bus form.
-- First offset 0: publishes on an application's stream at whatever comes next; publications are without the two numbers
-- at their front. The epoch is then the one to begin with, where there is none or one of a primary (first eight characters)
-- that is neither this one nor alive: what a living one kept has been moved here, and is this one's from now on.
-- Conditions, each empty where there is none: publisher's key, how long that is remembered (ms), version (20 digits), its epoch,
-- publications a second, a message to tell instead of publications (that has no offset, and begins no stream), two times to wait
-- (ms) that the node has found: with the first nothing is published that brings a key which is not known, for no more keys may be
-- remembered; with the second nothing that is new; and how long (ms) the asker takes to say the message where its slot still is.
-- What was published before is answered whatever they say.
-- Ahead of its slot nobody listens to a message: its key is the asker's for so long, and whoever offers it meanwhile is to wait.
-- `said` or `unsaid` in place of that time tell what became of it; what was not said by then is whose who offers it next.
-- Answers {accepted | duplicate | gap, top, epoch}; {gap} alone when nothing is known; {again, top (0: it was told), epoch};
-- {older, top, epoch}; {too many, how long to wait (ms)}; {told}.
local ACCEPTED, DUPLICATE, GAP, AGAIN, OLDER, TOO_MANY, TOLD = 1, 2, 3, 4, 5, 6, 7
-- Keys that are too old are dropped when another comes, at most so many: what is left has time until the next.
local DROPPED = 4
-- True where the keys have gone ahead of their slot.
local AHEAD = false
local position, history, remembered = KEYS[1], KEYS[2], KEYS[#KEYS]
local known = redis.call('HMGET', position, 'epoch', 'top', 'bytes', 'keeper')
local epoch, top = known[1], tonumber(known[2])
local first, conditions = tonumber(ARGV[3]), tonumber(ARGV[9])
local publishes = first == 0
local key, window, version, version_epoch, pace, word, full, late, saying = '', '0', '', '', '', '', '', '', ''
if conditions > 0 then
  key, window, version, version_epoch, pace, word, full, late, saying = unpack(ARGV, 10, 9 + conditions)
end
local became = saying == 'said' or saying == 'unsaid'
local now = now_ms()

-- Tells the message, or claims it; what its key is to remember of that.
local function told()
  if AHEAD then return 'unsaid ' .. string.format('%.0f', now + tonumber(saying)) end
  redis.call('PUBLISH', ARGV[1], word)
  return ''
end

-- The answer to a publisher's key, while it is remembered.
local function answered()
  local said = redis.call('HGET', remembered, 'k' .. key)
  if not said then return nil end
  local ends, offset, of = string.match(said, '^(%d+) (%d+) (.*)$')
  if tonumber(ends) <= now then return nil end
  -- No epoch has a space.
  local claimed = tonumber(string.match(of, '^unsaid (%d+)$'))
  if not claimed then return {AGAIN, tonumber(offset), of} end
  if not became and claimed > now then return {TOO_MANY, claimed - now} end
  local answer = {AGAIN, 0, ''}
  if became then
    of = saying == 'said' and '' or 'unsaid 0'
  elseif word ~= '' then
    of, answer = told(), {TOLD}
  end
  redis.call('HSET', remembered, 'k' .. key, ends .. ' 0 ' .. of)
  return answer
end

-- Remembers the answer. Beside the answers stand the keys in the order in which they came, by number.
local function remember(offset, of)
  if key == '' then return end
  local ring = redis.call('HMGET', remembered, 'first', 'next')
  local oldest, next = tonumber(ring[1]) or 1, tonumber(ring[2]) or 1
  for _ = 1, DROPPED do
    if oldest >= next then break end
    local name = redis.call('HGET', remembered, string.format('%.0f', oldest))
    local said = name and redis.call('HGET', remembered, 'k' .. name)
    if said and tonumber(string.match(said, '^%d+')) > now then break end
    redis.call('HDEL', remembered, string.format('%.0f', oldest), 'k' .. (name or ''))
    oldest = oldest + 1
  end
  local ends = string.format('%.0f', now + tonumber(window))
  redis.call('HSET', remembered, 'k' .. key, ends .. ' ' .. string.format('%.0f', offset) .. ' ' .. of,
    string.format('%.0f', next), key, 'first', string.format('%.0f', oldest), 'next', string.format('%.0f', next + 1))
  -- Another node may have promised more, as while the window is being made shorter.
  if redis.call('PTTL', remembered) < tonumber(window) then redis.call('PEXPIRE', remembered, window) end
end

if key ~= '' then
  local before = answered()
  if before then return before end
  -- Forgotten meanwhile.
  if became then return {AGAIN, 0, ''} end
  if full ~= '' then return {TOO_MANY, tonumber(full)} end
end
if word ~= '' then
  if late ~= '' then return {TOO_MANY, tonumber(late)} end
  -- Of what has no position nobody listens, and nothing has to be counted.
  local wait = pace ~= '' and epoch and take(position, tonumber(pace), now)
  if wait then return {TOO_MANY, wait} end
  remember(0, told())
  return {TOLD}
end
if publishes then
  local own = string.sub(ARGV[2], 1, 8)
  local keeper = known[4] or (epoch and string.sub(epoch, 1, 8))
  if not epoch or not top or (keeper ~= own and not (#keeper == 8 and string.find(ARGV[8], keeper, 1, true))) then
    -- Of what begins nothing is older.
    if late ~= '' then return {TOO_MANY, tonumber(late)} end
    epoch, top = ARGV[2], 0
    -- Each by itself: a server that does not have the slot yet takes two only when it has both.
    redis.call('DEL', position)
    redis.call('DEL', history)
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
if late ~= '' then return {TOO_MANY, tonumber(late)} end
if pace ~= '' then
  local wait = take(position, tonumber(pace), now)
  if wait then return {TOO_MANY, wait} end
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
