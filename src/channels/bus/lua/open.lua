-- Where an application's stream stands. One that is not known begins now, and so does one that a primary kept which is neither
-- this one nor alive: a replica that took over may lack the newest publications, and their offsets must not mean something
-- else in the same epoch. What a living primary kept has been moved here, and is this one's from now on.
-- KEYS: position hash, history list. ARGV: channel, epoch to begin with, how long the position is kept (ms), the living primaries
-- of the cluster (first eight characters of each). Answers {epoch, top}.
local position, history = KEYS[1], KEYS[2]
local known = redis.call('HMGET', position, 'epoch', 'top', 'keeper')
local epoch, top = known[1], known[2]
if epoch and top then
  local own, keeper = string.sub(ARGV[2], 1, 8), known[3] or string.sub(epoch, 1, 8)
  if keeper == own or (#keeper == 8 and string.find(ARGV[4], keeper, 1, true)) then
    if keeper ~= own then redis.call('HSET', position, 'keeper', own) end
    if tonumber(top) > 0 then redis.call('PEXPIRE', position, ARGV[3]) end
    return {epoch, top}
  end
end
-- Each by itself: a server that does not have the slot yet takes two only when it has both.
redis.call('DEL', position)
redis.call('DEL', history)
redis.call('HSET', position, 'epoch', ARGV[2], 'top', 0, 'bytes', 0)
-- Where nothing was ever published little is lost, and names may be made up: a day.
redis.call('PEXPIRE', position, math.min(tonumber(ARGV[3]), 86400000))
-- An event without publications: check your position. Of what nobody knew, nobody has one.
if epoch then redis.call('PUBLISH', ARGV[1], ARGV[2] .. '\n') end
return {ARGV[2], 0}
