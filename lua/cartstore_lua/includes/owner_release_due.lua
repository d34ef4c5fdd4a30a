--- @include hold_release_sku
--- @include holding_refresh
--- @include is_due
--- @include line_sku
--- @include payment_release

-- Release what is due of one owner: lapsed lines of the cart and pending payments whose window is over.
-- Returns how much was released. If anything was, whatever the call had changed in memory is void: the cart
-- and the SKUs are to be read again, most simply by answering AGAIN.
local function owner_release_due(call, cart)
  local skus, payments = {}, {}
  for line_id, line in pairs(cart.lines) do
    if line.held > 0 and is_due(call, line.expires) then
      skus[#skus + 1] = line_sku(line_id)
    end
  end
  if cart.waiting > 0 then
    for _, payment_id in ipairs(redis.call('ZRANGE', call.prefix .. 'orders:' .. cart.id, 0, -1)) do
      local known = redis.call('HMGET', call.prefix .. 'payment:' .. payment_id, 'status', 'expires')
      if known[1] == 'pending' and is_due(call, tonumber(known[2])) then
        payments[#payments + 1] = payment_id
      end
    end
  end
  if #skus + #payments == 0 then
    return 0
  end
  local loaded = call.skus
  call.skus = {}
  local released = 0
  for _, sku in ipairs(skus) do
    released = released + hold_release_sku(call, sku, 100)
  end
  for _, payment_id in ipairs(payments) do
    if payment_release(call, payment_id, 'expired') then
      released = released + 1
    end
  end
  if released == 0 then
    -- A hold that is missing in the index. What the call has changed in memory is not void, but for the bounds.
    call.skus = loaded
    for _, sku in ipairs(skus) do
      holding_refresh(call, sku)
    end
  end
  return released
end
