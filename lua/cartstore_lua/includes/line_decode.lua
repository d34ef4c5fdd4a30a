--- @include line_expires

-- A cart line from its eleven values, packed as MessagePack; nil when the text is not one. Times are distances from
-- the cart's creation.
local function line_decode(packed, created, extended, now)
  local is_packed, quantity, held, indexed, latest, first, ttl, price, revision, ordinal, added, updated, more =
    pcall(cmsgpack.unpack, packed)
  if not is_packed or type(updated) ~= 'number' or more then
    return nil
  end
  local line = {
    quantity = quantity,
    held = held,
    expires = 0,
    indexed = 0,
    latest = 0,
    first = 0,
    ttl = ttl,
    price = price,
    revision = revision,
    ordinal = ordinal,
    added = created + added,
    updated = created + updated,
  }
  if held > 0 then
    line.indexed, line.latest, line.first = created + indexed, created + latest, created + first
    line.expires = line_expires(line.indexed, ttl, line.latest, extended, now)
  end
  return line
end
