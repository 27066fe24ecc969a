-- Forgets what is kept of a stream; where it stands stays.
-- KEYS: position hash, history list.
return redis.call('DEL', KEYS[2])
