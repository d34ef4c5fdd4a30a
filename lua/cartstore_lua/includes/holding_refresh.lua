-- Put a SKU where it belongs in the sweeper's index, and its bounds where its index of holds has them, after
-- entries were taken out or moved.
local function holding_refresh(call, sku)
  local holds_key, sku_key = call.prefix .. 'holds:' .. sku, call.prefix .. 'sku:' .. sku
  local first = redis.call('ZRANGE', holds_key, 0, 0, 'WITHSCORES')
  local last = redis.call('ZRANGE', holds_key, -1, -1, 'WITHSCORES')
  -- Out first: at maxmemory a script may begin with nothing that adds.
  redis.call('ZREM', call.prefix .. 'holding', sku)
  if first[2] then
    redis.call('ZADD', call.prefix .. 'holding', first[2], sku)
    redis.call('HSET', sku_key, 'earliest', first[2], 'latest', last[2])
  else
    redis.call('HDEL', sku_key, 'earliest', 'latest')
  end
  local known = call.skus[sku]
  if known then
    known.earliest, known.latest, known.has_new_bounds = tonumber(first[2]), tonumber(last[2]), false
  end
end
