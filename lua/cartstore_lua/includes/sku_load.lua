-- A SKU's counters and catalog fields, or nil when it was never published. Kept for the whole call, so that
-- two lines of one SKU see each other's units before anything is written.
-- The `fields` text: revision price currency active policy hold_policy hold_ttl min max multiple.
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
  local revision, price, currency, active, policy, hold_policy, ttl, min, max, multiple =
    string.match(read[1], '^(%d+) (%d+) (%u+) ([01]) (%a+) ([%a_]+) (%d+) (%d+) (%d+) (%d+)$')
  known = {
    sku = sku,
    revision = tonumber(revision),
    price = tonumber(price),
    currency = currency,
    active = active == '1',
    policy = policy,
    hold_policy = hold_policy,
    ttl = tonumber(ttl),
    min = tonumber(min),
    max = tonumber(max),
    multiple = tonumber(multiple),
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
