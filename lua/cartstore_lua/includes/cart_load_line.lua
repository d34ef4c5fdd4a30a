--- @include cart_decode
--- @include cart_load
--- @include line_decode

-- A cart with one of its lines, which is all that a mutation of that line needs, however many there are: loaded
-- whole only if the hold of another line may have lapsed, for then it must not be extended with the rest.
local function cart_load_line(call, cart_id, line_id)
  local read = redis.call('HMGET', call.prefix .. 'cart:' .. cart_id, 'b', 'a', 'e', 'l:' .. line_id, 'p:' .. line_id)
  local cart = cart_decode(call, cart_id, read[1], read[2], read[3])
  local may_have_lapsed = cart.ttl_min > 0
    and (cart.extended > call.now or math.min(cart.extended + cart.ttl_min, cart.latest_min) <= call.now)
  if may_have_lapsed then
    return cart_load(call, cart_id)
  end
  cart.is_partial = true
  if read[4] then
    cart.lines[line_id] = line_decode(read[4], cart.created, cart.extended, call.now)
    cart.properties[line_id] = read[5] or nil
  end
  return cart
end
