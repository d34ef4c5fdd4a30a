-- When a line's hold ends. indexed: its expiry as its SKU's index has it. A mutation of the cart extends all its holds
-- without writing them: what a hold's expiry really is follows from the moment of that mutation (`extended`), the
-- hold's lifetime and the latest that its cap allows, and can only be later than what is indexed. A hold with ttl 0
-- had lapsed when its cart was extended, and stays lapsed. A moment that is yet to come means that the clock
-- stepped back, and counts as now: a step of a millisecond must not end holds whose place in the index is over.
local function line_expires(indexed, ttl, latest, extended, now)
  if ttl == 0 then
    return indexed
  end
  return math.max(indexed, math.min(math.min(extended, now) + ttl, latest))
end
