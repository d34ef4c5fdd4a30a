-- Remember a result that wrote something under its idempotency key, in place of the oldest of 16.
local function ring_remember(cart_key, key, fingerprint, reply)
  if key == '' then
    return
  end
  local slot = redis.call('HINCRBY', cart_key, 'ip', 1) % 16
  redis.call('HSET', cart_key, 'i' .. slot, fingerprint .. '\31' .. #key .. '\31' .. key .. cjson.encode(reply))
end
