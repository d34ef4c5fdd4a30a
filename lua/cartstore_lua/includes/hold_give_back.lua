--- @include backorder_fill
--- @include sku_count

-- Units that were held are held by nobody any more; paid backorders are served from them first. guest_units: how many of
-- them a guest held. Returns the number of units that went to backorders and are not on hand any more.
local function hold_give_back(call, sku, units, guest_units)
  local sku_key = call.prefix .. 'sku:' .. sku
  local read = redis.call('HMGET', sku_key, 'on_hand', 'held', 'backordered')
  local on_hand, held, owed = tonumber(read[1] or ''), tonumber(read[2] or ''), tonumber(read[3] or '')
  local filled = 0
  if on_hand and held and owed then
    filled = backorder_fill(call, sku, on_hand, held - units, owed, units)
  end
  sku_count(sku_key, -units, -guest_units, -filled, -filled)
  return filled
end
