--- @include int
--- @include outbox_append

-- Units of a SKU that nobody holds any more go to paid backorders first: of `freed` units, at most `owed` of them. Writes
-- the event and no counter: the caller lowers on_hand and `backordered` by the result, in the command that lowers `held`.
-- If the engine refuses that command, the units are held by nobody and are never sold twice.
-- on_hand, held: units, `held` as it is about to be. Never gives away units that somebody holds.
-- Returns the number of units that go to backorders.
local function backorder_fill(call, sku, on_hand, held, owed, freed)
  local filled = math.max(0, math.min(freed, owed, on_hand - held))
  if filled > 0 then
    outbox_append(call, 'backorder_filled', { sku = sku, filled = int(filled), on_hand = int(on_hand - filled) }, '', 0)
  end
  return filled
end
