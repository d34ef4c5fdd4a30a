--- @include int

-- Remember a result that wrote something under its idempotency key, in place of the oldest of 16. Numbers are
-- kept as texts: cjson writes 14 digits of them.
local function ring_remember(cart_key, key, fingerprint, reply)
  if key == '' then
    return
  end
  local texts = {}
  for index, value in ipairs(reply) do
    texts[index] = type(value) == 'number' and int(value) or value
  end
  local slot = redis.call('HINCRBY', cart_key, 'ip', 1) % 16
  redis.call('HSET', cart_key, 'i' .. slot, fingerprint .. '\31' .. #key .. '\31' .. key .. cjson.encode(texts))
end
