-- Nothing is left of a life that was being buried. KEYS: those that are being buried, those that have been. ARGV: life.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], string.format('%.0f', now_ms()), ARGV[1])
return 1
