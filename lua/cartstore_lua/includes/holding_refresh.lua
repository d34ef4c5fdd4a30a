--- @include hold_state_decode
--- @include hold_state_encode

-- Put a SKU where it belongs in the sweeper's index, and its bounds where its index of holds has them, after
-- entries were taken out or moved.
local function holding_refresh(call, sku)
  local holds_key, sku_key = call.prefix .. 'holds:' .. sku, call.prefix .. 'sku:' .. sku
  local first = redis.call('ZRANGE', holds_key, 0, 0, 'WITHSCORES')
  local last = redis.call('ZRANGE', holds_key, -1, -1, 'WITHSCORES')
  local earliest, latest = tonumber(first[2] or 0), tonumber(last[2] or 0)
  -- Out first: at maxmemory a script may begin with nothing that adds.
  redis.call('ZREM', call.prefix .. 'holding', sku)
  if first[2] then
    redis.call('ZADD', call.prefix .. 'holding', first[2], sku)
  end
  local packed = redis.call('HGET', sku_key, 'hold_state')
  -- Bounds alone would make a hash of a SKU that is gone.
  if packed then
    local guest_held, rev = hold_state_decode(packed)
    redis.call('HSET', sku_key, 'hold_state', hold_state_encode(guest_held, rev, earliest, latest))
  end
  local known = call.skus[sku]
  if known then
    known.earliest, known.latest, known.has_new_bounds = earliest, latest, false
  end
end
