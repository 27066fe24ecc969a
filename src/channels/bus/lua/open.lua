-- Where an application's stream stands. One that is not known, or that another primary began, begins now: a replica that took
-- over may lack the newest publications, and their offsets must not mean something else in the same epoch.
-- KEYS: position hash, history list. ARGV: channel, epoch to begin with, how long the position is kept (ms). Answers {epoch, top}.
local position, history = KEYS[1], KEYS[2]
local known = redis.call('HMGET', position, 'epoch', 'top')
local epoch, top = known[1], known[2]
if epoch and top and string.sub(epoch, 1, 8) == string.sub(ARGV[2], 1, 8) then
  if tonumber(top) > 0 then redis.call('PEXPIRE', position, ARGV[3]) end
  return {epoch, top}
end
redis.call('DEL', position, history)
redis.call('HSET', position, 'epoch', ARGV[2], 'top', 0, 'bytes', 0)
-- Where nothing was ever published little is lost, and names may be made up: a day.
redis.call('PEXPIRE', position, math.min(tonumber(ARGV[3]), 86400000))
-- An event without publications: check your position. Of what nobody knew, nobody has one.
if epoch then redis.call('PUBLISH', ARGV[1], ARGV[2] .. '\n') end
return {ARGV[2], 0}
