--- @include bought_note
--- @include payment_revive
--- @include cart_save
--- @include cart_uncount
--- @include change_next
--- @include sku_load
--- @include sku_save
--- @include sku_sell
--- @include hold_set
--- @include line_drop
--- @include holding_refresh
--- @include outbox_append
--- @include int

-- Take a payment to its end: `paid`, which sells its units, or `refund_due`, which sells nothing. Writes the event.
-- payment: as payment_load gives it; pending, or released before. sales: as payment_sales gives them. cart: of a payment
-- that was released, the cart that its lines returned to; they leave it.
local function payment_sell(call, payment, sales, cart, outcome)
  local payment_id = payment.id
  local payment_key = call.prefix .. 'payment:' .. payment_id
  local was_pending = payment.status == 'pending'
  local is_guest = string.sub(payment.cart, 1, 2) == 'g.'

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
  redis.call('HSET', payment_key, 'intent', outcome)
  if not was_pending then
    -- The tombstone comes back to life: nothing of it may go before its new state is archived.
    payment_revive(call, payment)
  end
  local body = { payment_id = payment_id, outcome = outcome, sales = #told > 0 and told or nil }
  local position = outbox_append(call, 'payment_settled', body, payment_id, cart_version)
  redis.call('HSET', payment_key, 'status', outcome, 'event', position)
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
    if not was_pending then
      -- What was released counts against purchase limits again, from when it was ordered.
      payment.buyer = payment.buyer or payment.cart
      bought_note(call, payment)
    end
    if #waiting > 0 then
      cart_uncount(call, payment.cart, waiting)
    end
  end
end
