-- A cart without its lines from the three texts that its hash keeps of it; an absent one is an empty cart made
-- now. Times but `created` are kept as distances from it, which keeps the texts within the engine's compact
-- encoding. Nothing is written before cart_save. `changed` and `gone` collect line ids, `zrem` and `zadd` the
-- hold entries to take out and put in.
-- extended: when the holds of all lines were last extended. ttl_min, latest_min: lower bounds of what lines with
-- a live hold have (line_decode); 0 when none has one.
local function cart_decode(call, cart_id, base, running, bounds)
  local cart = {
    id = cart_id,
    key = call.prefix .. 'cart:' .. cart_id,
    is_guest = string.sub(cart_id, 1, 2) == 'g.',
    exists = running and true or false,
    base = base,
    bounds = bounds,
    version = 0,
    count = 0,
    units = 0,
    subtotal = 0,
    held = 0,
    waiting = 0,
    ordinal = 0,
    created = call.now,
    updated = call.now,
    extended = 0,
    ttl = 0,
    currency = '',
    ttl_min = 0,
    latest_min = 0,
    lines = {},
    properties = {},
    changed = {},
    gone = {},
    zrem = {},
    zadd = {},
  }
  if not running then
    return cart
  end
  local created, ttl, currency = string.match(base, '^(%d+) (%d+) (%u*)$')
  created = tonumber(created)
  local version, count, units, subtotal, held, waiting, ordinal, updated, extended =
    string.match(running, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (-?%d+) (-?%d+)$')
  cart.created, cart.ttl, cart.currency = created, tonumber(ttl), currency
  cart.version, cart.count, cart.units = tonumber(version), tonumber(count), tonumber(units)
  cart.subtotal, cart.held, cart.waiting = tonumber(subtotal), tonumber(held), tonumber(waiting)
  cart.ordinal, cart.updated, cart.extended = tonumber(ordinal), created + updated, created + extended
  if bounds then
    local ttl_min, latest_min = string.match(bounds, '^(%d+) (-?%d+)$')
    cart.ttl_min = tonumber(ttl_min)
    cart.latest_min = cart.ttl_min > 0 and created + latest_min or 0
  end
  cart.was_counted = cart.held + cart.waiting > 0
  return cart
end
