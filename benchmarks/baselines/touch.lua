-- What an add reads and writes, by the same commands on the same keys, with nothing decided in between: what the
-- data costs the engine, wherever in memory it lies.
--
-- KEYS[1] gate, KEYS[2] cart hash, KEYS[3] sku hash, KEYS[4] activity index
-- ARGV[1] identity (not looked at), ARGV[2] cart_id, ARGV[3] line_id
-- Returns {'OK', version}
redis.call('HMGET', KEYS[1], 'status', 'identity', 'lifetime_ms')
redis.call('TIME')
local stock = redis.call('HMGET', KEYS[3], 'fields', 'on_hand', 'held', 'hold_state')
local cart = redis.call('HMGET', KEYS[2], 'a', 'l:' .. ARGV[3])
redis.call('HSET', KEYS[3], 'held', stock[3], 'hold_state', stock[4])
local version = redis.call('HINCRBY', KEYS[1], 'change', 1)
redis.call('ZADD', KEYS[4], version, ARGV[2])
redis.call('HSET', KEYS[2], 'a', cart[1], 'l:' .. ARGV[3], cart[2])
return { 'OK', tostring(version) }
