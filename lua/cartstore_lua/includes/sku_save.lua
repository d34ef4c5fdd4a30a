--- @include backorder_fill
--- @include hold_state_encode
--- @include int

-- Write what a call changed of a SKU's counters: whole values in one command, since sku_read read them in this very
-- call. `sold` and `taken` are there only if the call sells units (payment_settle). `rev` grows with every change of
-- the counters, and also when units only go from one holder to another: who adds up all claims sees by it that some may
-- have been missed or counted twice.
-- Units that are held no longer, and were not sold, serve paid backorders first, which lowers on_hand. A call without a
-- nonce has seen that there are none (line_change).
local function sku_save(call, stock)
  if stock.has_moved then
    stock.rev = stock.rev + 1
  elseif not stock.has_new_bounds then
    return
  end
  local filled = 0
  local freed = stock.held < stock.saved_held and stock.saved_held - stock.held - (stock.sold and stock.taken or 0) or 0
  if freed > 0 and call.nonce ~= '' then
    local owed = stock.sold and stock.backordered or tonumber(redis.call('HGET', stock.key, 'backordered') or '') or 0
    filled = backorder_fill(call, stock.sku, stock.on_hand, stock.held, owed, freed)
    if filled > 0 then
      stock.on_hand, stock.backordered = stock.on_hand - filled, owed - filled
    end
  end
  local state = hold_state_encode(stock.guest_held, stock.rev, stock.earliest, stock.latest)
  if stock.sold then
    redis.call(
      'HSET', stock.key, 'on_hand', int(stock.on_hand), 'held', int(stock.held), 'hold_state', state,
      'sold', int(stock.sold), 'backordered', int(stock.backordered)
    )
    stock.sold = nil
  elseif filled > 0 then
    redis.call(
      'HSET', stock.key, 'on_hand', int(stock.on_hand), 'held', int(stock.held), 'hold_state', state,
      'backordered', int(stock.backordered)
    )
  else
    redis.call('HSET', stock.key, 'held', stock.held, 'hold_state', state)
  end
  stock.has_moved, stock.has_new_bounds, stock.saved_held = false, false, stock.held
end
