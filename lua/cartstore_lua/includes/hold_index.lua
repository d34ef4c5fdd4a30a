-- Put a hold into its SKU's index. `earliest` and `latest` bound the index, so that whoever loads the SKU knows
-- whether anything may be due; sku_save writes them. `holding` follows: where the sweeper looks.
local function hold_index(prefix, stock, member, expires)
  redis.call('ZADD', prefix .. 'holds:' .. stock.sku, expires, member)
  if stock.earliest == 0 or expires < stock.earliest then
    redis.call('ZADD', prefix .. 'holding', expires, stock.sku)
    stock.earliest, stock.has_new_bounds = expires, true
  end
  if expires > stock.latest then
    stock.latest, stock.has_new_bounds = expires, true
  end
end
