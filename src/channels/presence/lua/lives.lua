-- Lives that may have channels. KEYS: lives, those that are being buried, those that their nodes left.
local all = {}
for _, key in ipairs(KEYS) do
  for _, life in ipairs(redis.call('ZRANGE', key, 0, -1)) do all[#all + 1] = life end
end
return all
