-- A cart without its lines from what its hash keeps of it in one field: sixteen values, packed as MessagePack, which
-- an engine reads and writes several times faster than numbers in a text. An absent cart is an empty one made now.
-- Times but `created` are kept as distances (`extended` from `updated`, the others from `created`), which keeps the
-- field within the engine's compact encoding. `watched_until` is 0 and `merged_into` empty as long as
-- no script sets them; every script keeps them. Nothing is written before cart_save. `changed` and `gone` collect line
-- ids, `zrem` and `zadd` the hold entries to take out and put in.
-- extended: when the holds of all lines were last extended. ttl_min: a lower bound of the lifetimes of those holds;
-- 0 when there are none. Before `extended + ttl_min` no hold lapses but by its cap, which an extension does not move.
-- period_end: 0, or a moment after which, with a rest added, no hold period of a SKU counts any more that is not told by
-- the line itself: the end of one that is recorded, or the cap of a line with properties, which shares its period with
-- other lines of its SKU. Periods of units in pending orders count as long as `waiting` is above 0.
local function cart_decode(call, cart_id, packed)
  local version, count, units, subtotal, held, waiting, ordinal = 0, 0, 0, 0, 0, 0, 0
  local updated, extended, ttl_min, created, ttl, currency, watched, merged_into = 0, -call.now, 0, call.now, 0, '', 0, ''
  local period_end = 0
  if packed then
    version, count, units, subtotal, held, waiting, ordinal, updated, extended, ttl_min, created, ttl, currency, watched,
      merged_into, period_end = cmsgpack.unpack(packed)
    period_end = period_end > 0 and created + period_end - 1 or 0
  end
  updated = created + updated
  return {
    id = cart_id,
    key = call.prefix .. 'cart:' .. cart_id,
    is_guest = string.sub(cart_id, 1, 2) == 'g.',
    exists = packed and true or false,
    version = version,
    count = count,
    units = units,
    subtotal = subtotal,
    held = held,
    waiting = waiting,
    was_counted = held + waiting > 0,
    ordinal = ordinal,
    created = created,
    updated = updated,
    extended = updated + extended,
    ttl = ttl,
    currency = currency,
    ttl_min = ttl_min,
    watched_until = watched > 0 and created + watched or 0,
    merged_into = merged_into,
    period_end = period_end,
    lines = {},
    periods = {},
    periods_changed = {},
    periods_gone = {},
    properties = {},
    changed = {},
    gone = {},
    zrem = {},
    zadd = {},
  }
end
