--- @include sku_fields

-- A SKU's counters, and behind them its catalog fields; nil when it was never published.
local function sku_read(key, sku)
  local read = redis.call('HMGET', key, 'fields', 'on_hand', 'held', 'guest_held', 'rev', 'earliest', 'latest')
  if not read[1] then
    return nil
  end
  return setmetatable({
    key = key,
    sku = sku,
    on_hand = tonumber(read[2]),
    held = tonumber(read[3]),
    guest_held = tonumber(read[4]),
    rev = tonumber(read[5]),
    earliest = tonumber(read[6] or nil),
    latest = tonumber(read[7] or nil),
  }, sku_fields(read[1]))
end
