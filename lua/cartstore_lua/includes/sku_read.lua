--- @include hold_state_decode
--- @include sku_fields

-- A SKU's counters, and behind them its catalog fields as of `now`; nil when it was never published. `earliest` and `latest` are 0
-- when nobody holds any of it.
local function sku_read(key, sku, now)
  local read = redis.call('HMGET', key, 'fields', 'on_hand', 'held', 'hold_state')
  if not read[1] then
    return nil
  end
  local held, guest_held, rev, earliest, latest = tonumber(read[3]), hold_state_decode(read[4])
  return setmetatable({
    key = key,
    sku = sku,
    on_hand = tonumber(read[2]),
    held = held,
    saved_held = held,
    guest_held = guest_held,
    rev = rev,
    earliest = earliest,
    latest = latest,
    -- Here from the start: a table that grows is copied.
    has_moved = false,
    has_new_bounds = false,
  }, sku_fields(read[1], now))
end
