--- @include hold_state_encode
--- @include int

-- Write what a call changed of a SKU's counters: whole values in one command, since sku_read read them in this very
-- call. `sold` and `backordered` are there only if the call sells units (payment_settle). `rev` grows with every change of
-- the counters, and also when units only go from one holder to another: who adds up all claims sees by it that some may
-- have been missed or counted twice.
local function sku_save(stock)
  if stock.has_moved then
    stock.rev = stock.rev + 1
  elseif not stock.has_new_bounds then
    return
  end
  local state = hold_state_encode(stock.guest_held, stock.rev, stock.earliest, stock.latest)
  if stock.sold then
    redis.call(
      'HSET', stock.key, 'on_hand', int(stock.on_hand), 'held', int(stock.held), 'hold_state', state,
      'sold', int(stock.sold), 'backordered', int(stock.backordered)
    )
    stock.sold = nil
  else
    redis.call('HSET', stock.key, 'held', stock.held, 'hold_state', state)
  end
  stock.has_moved, stock.has_new_bounds, stock.saved_held = false, false, stock.held
end
