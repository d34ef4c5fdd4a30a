--- @include cart_decode
--- @include cart_encode
--- @include hash_set
--- @include period_decode
--- @include period_encode
--- @include period_note

-- Take units of orders that were paid out of what their cart counts: sku, held and first hold of each of `sales`, in
-- units of pending orders. When nothing depends on the cart any more it may go, after its lifetime.
local function cart_uncount(call, cart_id, sales)
  local cart_key = call.prefix .. 'cart:' .. cart_id
  local packed = redis.call('HGET', cart_key, 'a')
  if not packed then
    return
  end
  local cart = cart_decode(call, cart_id, packed)
  for _, sale in ipairs(sales) do
    local name = 'h:' .. sale.sku
    local known = redis.call('HGET', cart_key, name)
    cart.periods[sale.sku] = cart.periods[sale.sku] or known and period_decode(known, cart.created)
    period_note(call, cart, sale.sku, sale.first, call.now, -sale.held)
    cart.waiting = math.max(0, cart.waiting - sale.held)
  end
  local fields = { 'a', cart_encode(cart) }
  for sku in pairs(cart.periods_changed) do
    fields[#fields + 1] = 'h:' .. sku
    fields[#fields + 1] = period_encode(cart.periods[sku], cart.created)
  end
  hash_set(cart_key, fields)
  if cart.held + cart.waiting <= 0 then
    redis.call('PEXPIRE', cart_key, cart.ttl)
  end
end
