-- A cart without its lines from the three texts that its hash keeps of it; an absent one is an empty cart made
-- now. Times but `created` are kept as distances from it, which keeps the texts within the engine's compact
-- encoding. Nothing is written before cart_save. `changed` and `gone` collect line ids, `zrem` and `zadd` the
-- hold entries to take out and put in.
-- extended: when the holds of all lines were last extended. ttl_min, latest_min: lower bounds of what lines with
-- a live hold have (line_decode); 0 when none has one.
local function cart_decode(call, cart_id, base, running, bounds)
  local created, ttl, currency, ttl_min, latest_min = call.now, 0, '', 0, 0
  local version, count, units, subtotal, held, waiting, ordinal, updated, extended = 0, 0, 0, 0, 0, 0, 0, 0, -call.now
  if running then
    created, ttl, currency = string.match(base, '^(%d+) (%d+) (%u*)$')
    version, count, units, subtotal, held, waiting, ordinal, updated, extended =
      string.match(running, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (-?%d+) (-?%d+)$')
    held, waiting = tonumber(held), tonumber(waiting)
    if bounds then
      ttl_min, latest_min = string.match(bounds, '^(%d+) (-?%d+)$')
      ttl_min = tonumber(ttl_min)
      latest_min = ttl_min > 0 and created + latest_min or 0
    end
  end
  return {
    id = cart_id,
    key = call.prefix .. 'cart:' .. cart_id,
    is_guest = string.sub(cart_id, 1, 2) == 'g.',
    exists = running and true or false,
    version = tonumber(version),
    count = tonumber(count),
    units = tonumber(units),
    subtotal = tonumber(subtotal),
    held = held,
    waiting = waiting,
    was_counted = held + waiting > 0,
    ordinal = tonumber(ordinal),
    created = tonumber(created),
    updated = created + updated,
    extended = created + extended,
    ttl = tonumber(ttl),
    currency = currency,
    ttl_min = ttl_min,
    latest_min = latest_min,
    saved_ttl = running and tonumber(ttl),
    saved_currency = currency,
    saved_ttl_min = ttl_min,
    saved_latest_min = latest_min,
    lines = {},
    properties = {},
    changed = {},
    gone = {},
    zrem = {},
    zadd = {},
  }
end
