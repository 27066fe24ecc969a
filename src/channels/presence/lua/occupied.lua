-- How many subscribers a channel has. KEYS: occupancy.
local all = 0
for _, subscribers in ipairs(redis.call('HVALS', KEYS[1])) do all = all + tonumber(subscribers) end
return all
