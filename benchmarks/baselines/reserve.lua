-- The shortest script that still reserves: one stock hash, one cart hash, no expiry, no version, no index,
-- no gate, no limits. What a service can at best come close to.
--
-- KEYS[1] stock hash, KEYS[2] cart hash
-- ARGV[1] identity (not looked at), ARGV[2] sku, ARGV[3] quantity
-- Returns {'OK', quantity of the line, units left} | {'SOLD_OUT', units left}
local stock = redis.call('HMGET', KEYS[1], 'on_hand', 'held')
local quantity = tonumber(ARGV[3])
local free = tonumber(stock[1] or 0) - tonumber(stock[2] or 0)
if free < quantity then
  return { 'SOLD_OUT', tostring(free) }
end
redis.call('HINCRBY', KEYS[1], 'held', quantity)
local line = redis.call('HINCRBY', KEYS[2], ARGV[2], quantity)
return { 'OK', tostring(line), string.format('%.0f', free - quantity) }
