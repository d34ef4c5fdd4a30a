--- @include bought_key
--- @include int

-- Units of an order no longer count against a SKU's purchase limit: the order was released, or they went back to stock.
-- buyer: the customer's identities, separated by spaces.
local function bought_take_out(call, sku, buyer, order_id, units)
  for identity in string.gmatch(buyer, '%S+') do
    local key = bought_key(call, sku, identity)
    local at, bought = string.match(redis.call('HGET', key, order_id) or '', '^(%d+) (%d+)$')
    if at and tonumber(bought) > units then
      redis.call('HSET', key, order_id, at .. ' ' .. int(tonumber(bought) - units))
    elseif at then
      redis.call('HDEL', key, order_id)
    end
  end
end
