-- How many subscribers a channel has. KEYS: occupancy.
return sum(KEYS[1])
