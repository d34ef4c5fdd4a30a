-- Write what a call changed of a SKU's counters: whole values in one command, since sku_read read them in this
-- very call. `rev` grows also when units only went from one holder to another: whoever adds up all claims by
-- visiting their holders has missed or doubled them then, and sees it by that.
local function sku_save(stock)
  local key = stock.key
  if stock.has_moved then
    stock.rev = stock.rev + 1
    if stock.has_guest_change then
      redis.call('HSET', key, 'held', stock.held, 'rev', stock.rev, 'guest_held', stock.guest_held)
      stock.has_guest_change = false
    else
      redis.call('HSET', key, 'held', stock.held, 'rev', stock.rev)
    end
    stock.has_moved = false
  end
  if stock.has_new_bounds then
    redis.call('HSET', key, 'earliest', stock.earliest, 'latest', stock.latest)
    stock.has_new_bounds = false
  end
end
