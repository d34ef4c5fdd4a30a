--- @include bought_key

-- Units of a SKU with a purchase limit that count against it for one customer: those of orders begun within the window,
-- unless they were released.
local function bought_count(call, stock, identity)
  local flat = redis.call('HGETALL', bought_key(call, stock.sku, identity))
  local since, units = call.now - stock.limit_window, 0
  for index = 2, #flat, 2 do
    local at, bought = string.match(flat[index], '^(%d+) (%d+)$')
    if at and tonumber(at) > since then
      units = units + tonumber(bought)
    end
  end
  return units
end
