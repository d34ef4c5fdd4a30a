--- @include bought_key
--- @include int

-- Count units of an order against a SKU's purchase limit for one customer. at: when the order began, ms. What is older
-- than the window goes, so that a regular customer's key stays small; the key itself goes a window after the last
-- purchase.
local function bought_add(call, stock, identity, order_id, at, units)
  local key = bought_key(call, stock.sku, identity)
  local flat = redis.call('HGETALL', key)
  for index = 1, #flat, 2 do
    local before = tonumber(string.match(flat[index + 1], '^(%d+) '))
    if not before or before <= call.now - stock.limit_window then
      redis.call('HDEL', key, flat[index])
    end
  end
  redis.call('HSET', key, order_id, int(at) .. ' ' .. int(units))
  redis.call('PEXPIRE', key, stock.limit_window)
end
