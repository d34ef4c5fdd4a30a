--[[
  payment_settle: the money arrived, for all orders of a payment at once.
  Why atomic: exactly one of settle, cancel and expiry takes a pending payment to its end, and the units
  leave on_hand in the step that makes the orders paid.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  payment hash           {ns:p}:payment:<payment_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  release limit          due holds released at most, over all SKUs
  ARGV[5]  unpaid kept            ms after its checkout from which a released payment is not paid any more, 0 for never
  Returns  {'OK', now, position, <payment>, <order>...} | {'UNCHANGED', now, position, <payment>, <order>...}
           {'PAYMENT_NOT_FOUND'} | {'AGAIN'} | {'STORE_FULL'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the orders * log holds)
]]
--- @include call_begin
--- @include payment_load
--- @include payment_revive
--- @include hold_release_if_due
--- @include cart_load
--- @include cart_save
--- @include cart_uncount
--- @include change_next
--- @include sku_load
--- @include sku_save
--- @include sku_sell
--- @include sku_has_due
--- @include hold_set
--- @include line_drop
--- @include holding_refresh
--- @include outbox_append
--- @include payment_reply

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local limit, unpaid_kept = tonumber(ARGV[4]), tonumber(ARGV[5])
if not limit then
  return redis.error_reply('CARTBADARG release limit')
end
if not unpaid_kept then
  return redis.error_reply('CARTBADARG unpaid kept')
end
local payment_id = string.sub(KEYS[2], #call.prefix + 9)
local payment = payment_load(call, payment_id)
if not payment then
  return { 'PAYMENT_NOT_FOUND' }
end
if payment.status ~= 'pending' and payment.status ~= 'expired' and payment.status ~= 'cancelled' then
  return payment_reply(call, 'UNCHANGED', payment_id)
end
if call.disk == 'out' then
  return { 'STORE_FULL' }
end
local was_pending = payment.status == 'pending'
local is_guest = string.sub(payment.cart, 1, 2) == 'g.'

-- Units per order and SKU, and what of them must come out of stock.
local sales, needs = {}, {}
for _, order in ipairs(payment.list) do
  local by_sku = {}
  for _, line in ipairs(order.lines) do
    if line.mode ~= 'untracked' then
      local sale = by_sku[line.sku]
      if not sale then
        sale = { order_id = order.id, sku = line.sku, quantity = 0, held = 0, first = line.first }
        by_sku[line.sku] = sale
        sales[#sales + 1] = sale
      end
      sale.quantity = sale.quantity + line.quantity
      sale.held = sale.held + line.held
      needs[line.sku] = (needs[line.sku] or 0) + line.held
    end
  end
end

-- A late payment: the units were given back. They are taken again if nobody has them, and the lines that
-- returned to the cart leave it, with the holds they may have got there meanwhile.
local outcome = 'paid'
local cart
local releases = {}
for _, sale in ipairs(sales) do
  -- A pending order's own holds must not fall due here; a backorder has none, but wants what lapsed of others.
  if not was_pending or sale.quantity > sale.held then
    releases[sale.sku] = true
  end
end
for sku in pairs(releases) do
  local released, more_due = hold_release_if_due(call, sku, math.max(1, limit))
  if more_due then
    return { 'AGAIN' }
  end
  limit = limit - released
end
if not was_pending then
  -- The record has removed, or may remove, the address that the goods would go to.
  local kept_until = tonumber(payment.created) + unpaid_kept
  if payment.redacted or (unpaid_kept > 0 and call.now >= kept_until) then
    outcome = 'refund_due'
  end
  cart = cart_load(call, payment.cart)
  local own = {}
  for _, order in ipairs(payment.list) do
    for _, line in ipairs(order.lines) do
      local returned = cart.lines[line.line_id]
      if returned and line.mode == 'held' then
        own[line.sku] = (own[line.sku] or 0) + math.min(returned.held, line.quantity)
      end
    end
  end
  for sku, units in pairs(needs) do
    local stock = sku_load(call, sku)
    if not stock or units > stock.on_hand - stock.held + (own[sku] or 0) then
      if stock and sku_has_due(call, stock) then
        return { 'AGAIN' }
      end
      outcome = 'refund_due'
    end
  end
end

-- What the sale does to counters and cart, in memory.
local told, cart_version, waiting = {}, 0, {}
if outcome == 'paid' then
  if cart then
    local left_any = false
    for _, order in ipairs(payment.list) do
      for _, line in ipairs(order.lines) do
        local returned = cart.lines[line.line_id]
        if returned then
          left_any = true
          if returned.quantity <= line.quantity then
            line_drop(call, cart, line.line_id)
          else
            local stock = sku_load(call, line.sku)
            if returned.held > 0 then
              hold_set(call, cart, stock, line.line_id, returned, returned.held - math.min(returned.held, line.quantity))
            end
            returned.quantity = returned.quantity - line.quantity
            returned.updated = call.now
            cart.units = cart.units - line.quantity
            cart.subtotal = cart.subtotal - line.quantity * returned.price
            cart.changed[line.line_id] = true
          end
        end
      end
    end
    if left_any then
      cart_version = change_next(call)
    end
  end
  for _, sale in ipairs(sales) do
    local stock = sku_load(call, sale.sku)
    local returned = was_pending and sale.held or 0
    local taken = sale.held
    -- A SKU that the engine lost has no counters; the event alone tells of the sale.
    if stock then
      if sale.quantity > sale.held then
        -- A backorder takes what is free now; the rest is sold beyond stock.
        local free = math.max(0, stock.on_hand - stock.held + returned - sale.held)
        taken = sale.held + math.min(sale.quantity - sale.held, free)
      end
      sku_sell(stock, sale.quantity, taken, returned, is_guest)
    end
    if returned > 0 then
      waiting[#waiting + 1] = sale
    end
    told[#told + 1] = {
      order_id = sale.order_id, sku = sale.sku, quantity = int(sale.quantity), taken = int(taken),
      backordered = int(sale.quantity - taken),
    }
  end
end

-- The first write is a ZREM, so a settlement works at maxmemory. The event and the payment's end come before anything
-- that frees a unit: if the engine refuses a command in between, units are held by nobody and are never sold twice.
-- The payment is written once before the event, so that its end cannot be refused after it.
redis.call('ZREM', call.prefix .. 'due', payment_id)
redis.call('HSET', KEYS[2], 'intent', outcome)
if not was_pending then
  -- The tombstone comes back to life: nothing of it may go before its new state is archived.
  payment_revive(call, payment)
end
local body = { payment_id = payment_id, outcome = outcome, sales = #told > 0 and told or nil }
local position = outbox_append(call, 'payment_settled', body, payment_id, cart_version)
redis.call('HSET', KEYS[2], 'status', outcome, 'event', position)
for _, order in ipairs(payment.list) do
  local reason = outcome == 'paid' and '' or order.reason
  redis.call('HSET', call.prefix .. 'order:' .. order.id, 'status', outcome, 'reason', reason)
end
if outcome == 'paid' then
  for _, sale in ipairs(sales) do
    redis.call('ZREM', call.prefix .. 'holds:' .. sale.sku, 'o\31' .. sale.order_id)
  end
  if cart_version > 0 then
    cart_save(call, cart, call.now)
  end
  for _, sale in ipairs(sales) do
    local stock = sku_load(call, sale.sku)
    if stock then
      sku_save(call, stock)
      holding_refresh(call, sale.sku)
    end
  end
  if #waiting > 0 then
    cart_uncount(call, payment.cart, waiting)
  end
end
return payment_reply(call, 'OK', payment_id)
