-- Put a SKU where it belongs in the sweeper's index after holds were taken out.
local function holding_refresh(call, sku)
  local earliest = redis.call('ZRANGE', call.prefix .. 'holds:' .. sku, 0, 0, 'WITHSCORES')
  -- Out first: at maxmemory a script may begin with nothing that adds.
  redis.call('ZREM', call.prefix .. 'holding', sku)
  if earliest[1] then
    redis.call('ZADD', call.prefix .. 'holding', earliest[2], sku)
  end
end
