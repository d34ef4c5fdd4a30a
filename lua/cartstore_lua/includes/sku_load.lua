--- @include sku_fields

-- A SKU's counters and catalog fields, or nil when it was never published. Kept for the whole call, so that
-- two lines of one SKU see each other's units before anything is written.
local function sku_load(call, sku)
  local known = call.skus[sku]
  if known then
    return known
  end
  local read = redis.call(
    'HMGET', call.prefix .. 'sku:' .. sku, 'fields', 'on_hand', 'held', 'guest_held', 'rev', 'earliest', 'latest'
  )
  if not read[1] then
    return nil
  end
  local fields = sku_fields(read[1])
  known = {
    sku = sku,
    revision = fields.revision,
    price = fields.price,
    currency = fields.currency,
    active = fields.active,
    policy = fields.policy,
    hold_policy = fields.hold_policy,
    ttl = fields.ttl,
    min = fields.min,
    max = fields.max,
    multiple = fields.multiple,
    on_hand = tonumber(read[2]),
    held = tonumber(read[3]),
    guest_held = tonumber(read[4]),
    rev = tonumber(read[5]),
    earliest = tonumber(read[6] or nil),
    latest = tonumber(read[7] or nil),
    has_moved = false,
  }
  call.skus[sku] = known
  return known
end
