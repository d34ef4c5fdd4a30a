-- A cart line from its compact text; nil when the text is not one. Times are distances from the cart's creation.
-- indexed: the hold's expiry as its SKU's index has it. A mutation of the cart extends all its holds without
-- writing them: what a hold's expiry really is follows from the moment of that mutation (`extended`), the hold's
-- lifetime and the latest that its cap allows, and can only be later than what is indexed. A hold with ttl 0
-- had lapsed when its cart was extended, and stays lapsed. A moment that is yet to come means that the clock
-- stepped back, and counts as now: a step of a millisecond must not end holds whose place in the index is over.
local function line_decode(text, created, extended, now)
  local quantity, held, indexed, latest, first, ttl, price, revision, ordinal, added, updated =
    string.match(text, '^(%d+) (%d+) (-?%d+) (-?%d+) (-?%d+) (%d+) (%d+) (%d+) (%d+) (-?%d+) (-?%d+)$')
  if not quantity then
    return nil
  end
  local line = {
    quantity = tonumber(quantity),
    held = tonumber(held),
    expires = 0,
    indexed = 0,
    latest = 0,
    first = 0,
    ttl = tonumber(ttl),
    price = tonumber(price),
    revision = tonumber(revision),
    ordinal = tonumber(ordinal),
    added = created + added,
    updated = created + updated,
  }
  if line.held > 0 then
    line.indexed, line.latest, line.first = created + indexed, created + latest, created + first
    line.expires = line.indexed
    if line.ttl > 0 then
      line.expires = math.max(line.indexed, math.min(math.min(extended, now) + line.ttl, line.latest))
    end
  end
  return line
end
