--- @include int

-- Whether a hold of a SKU is due: over, or later than the longest lifetime because the clock stepped back.
-- The hot scripts only ask and leave the release to a call of its own, since most of the time there is none.
local function sku_has_due(call, sku)
  local holds_key = call.prefix .. 'holds:' .. sku
  local first = redis.call('ZRANGE', holds_key, 0, 0, 'WITHSCORES')
  if not first[2] then
    return false
  end
  if tonumber(first[2]) <= call.now then
    return true
  end
  return tonumber(redis.call('ZRANGE', holds_key, -1, -1, 'WITHSCORES')[2]) > call.now + call.lifetime
end
