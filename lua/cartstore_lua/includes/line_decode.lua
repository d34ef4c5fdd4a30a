-- A cart line from its compact text. Times are kept as distances from the cart's creation, which keeps the
-- text short enough for the engine's compact hash encoding. nil when the text is not one.
local function line_decode(text, created)
  local quantity, held, expires, first, ttl, price, revision, ordinal, added, updated =
    string.match(text, '^(%d+) (%d+) (-?%d+) (-?%d+) (%d+) (%d+) (%d+) (%d+) (-?%d+) (-?%d+)$')
  if not quantity then
    return nil
  end
  local line = {
    quantity = tonumber(quantity),
    held = tonumber(held),
    expires = 0,
    first = 0,
    ttl = tonumber(ttl),
    price = tonumber(price),
    revision = tonumber(revision),
    ordinal = tonumber(ordinal),
    added = created + tonumber(added),
    updated = created + tonumber(updated),
  }
  if line.held > 0 then
    line.expires = created + tonumber(expires)
    line.first = created + tonumber(first)
  end
  return line
end
