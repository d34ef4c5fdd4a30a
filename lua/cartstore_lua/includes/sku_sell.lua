-- Count a sale of a SKU, in memory: `taken` units leave on_hand, what is beyond them is sold beyond stock, and `returned`
-- units are held no longer. All in units; sku_save writes them together.
local function sku_sell(stock, quantity, taken, returned, is_guest)
  if not stock.sold then
    local read = redis.call('HMGET', stock.key, 'sold', 'backordered')
    stock.sold, stock.backordered, stock.taken = tonumber(read[1]), tonumber(read[2]), 0
  end
  stock.on_hand = stock.on_hand - taken
  stock.taken = stock.taken + taken
  stock.sold = stock.sold + quantity
  stock.backordered = stock.backordered + quantity - taken
  stock.held = stock.held - returned
  if is_guest then
    stock.guest_held = stock.guest_held - returned
  end
  stock.has_moved = true
end
