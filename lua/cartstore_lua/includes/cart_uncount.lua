--- @include cart_decode
--- @include cart_encode

-- Take units that left the cart's lines (`held`) or its pending orders (`waiting`) out of what it counts. When
-- nothing depends on it any more the cart may go, after its lifetime.
local function cart_uncount(call, cart_id, held, waiting)
  local cart_key = call.prefix .. 'cart:' .. cart_id
  local packed = redis.call('HGET', cart_key, 'a')
  if not packed then
    return
  end
  local cart = cart_decode(call, cart_id, packed)
  cart.held, cart.waiting = cart.held - held, math.max(0, cart.waiting - waiting)
  redis.call('HSET', cart_key, 'a', cart_encode(cart))
  if cart.held + cart.waiting <= 0 then
    redis.call('PEXPIRE', cart_key, cart.ttl)
  end
end
