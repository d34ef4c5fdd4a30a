--- @include bought_forget
--- @include payment_load
--- @include period_note
--- @include holding_refresh
--- @include hold_give_back
--- @include outbox_append
--- @include order_lines_return
--- @include cart_save
--- @include change_next

-- Release a pending payment whole: units of all its orders go back, lines return to the cart, one event.
-- Returns whether it was pending. The first write is a ZREM, so it works at maxmemory.
--
-- The event and the payment's end come before anything that frees a unit: if the engine refuses a command in between,
-- units are held by nobody and are never sold twice. The payment is written once before the event, so that its end
-- cannot be refused after it.
local function payment_release(call, payment_id, reason)
  local payment = payment_load(call, payment_id)
  if not payment or payment.status ~= 'pending' then
    return false
  end
  local payment_key = call.prefix .. 'payment:' .. payment_id
  redis.call('ZREM', call.prefix .. 'due', payment_id)
  redis.call('HSET', payment_key, 'intent', reason)
  local is_guest = string.sub(payment.cart, 1, 2) == 'g.'
  local back, waiting = {}, 0
  for _, order in ipairs(payment.list) do
    for _, line in ipairs(order.lines) do
      if line.held > 0 then
        back[line.sku] = (back[line.sku] or 0) + line.held
        waiting = waiting + line.held
      end
    end
  end
  local cart, takes = order_lines_return(call, payment, waiting)
  for _, order in ipairs(payment.list) do
    for _, line in ipairs(order.lines) do
      if line.held > 0 then
        period_note(call, cart, line.sku, line.first, tonumber(payment.expires), -line.held)
      end
    end
  end
  local cart_version = takes and change_next(call) or 0
  local position = outbox_append(
    call, 'payment_released', { payment_id = payment_id, reason = reason }, payment_id, cart_version
  )
  redis.call('HSET', payment_key, 'status', reason, 'event', position)

  for _, order in ipairs(payment.list) do
    redis.call('HSET', call.prefix .. 'order:' .. order.id, 'status', 'released', 'reason', reason)
    for _, line in ipairs(order.lines) do
      if line.held > 0 then
        redis.call('ZREM', call.prefix .. 'holds:' .. line.sku, 'o\31' .. order.id)
      end
    end
  end
  for sku, units in pairs(back) do
    local filled = hold_give_back(call, sku, units, is_guest and units or 0)
    holding_refresh(call, sku)
    local known = call.skus[sku]
    if known then
      known.on_hand = known.on_hand - filled
      known.held = known.held - units
      known.saved_held = known.saved_held - units
      known.rev = known.rev + 1
      if is_guest then
        known.guest_held = known.guest_held - units
      end
    end
  end
  cart_save(call, cart, takes and call.now or nil)
  bought_forget(call, payment)
  return true
end
