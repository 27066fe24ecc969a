-- Lives that a copy of the list has and the list has not: each is buried a lease from now, in which its node may still come to begin another.
-- KEYS: lives, those that are being buried, those that have been, those that their nodes left. ARGV: lease (ms), lives.
-- Answers those that have been buried.
local over, stop = {}, string.format('%.0f', now_ms() + tonumber(ARGV[1]))
for i = 2, #ARGV do
  local life, known = ARGV[i], false
  for _, key in ipairs(KEYS) do known = known or redis.call('ZSCORE', key, life) end
  if redis.call('ZSCORE', KEYS[3], life) then
    over[#over + 1] = life
  elseif not known then
    redis.call('ZADD', KEYS[4], stop, life)
  end
end
return over
