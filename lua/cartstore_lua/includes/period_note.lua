--- @include period_ended

-- Record in a cart, in memory, that a hold of a SKU ended (period_ended), or that units of it began or ceased to wait in
-- its owner's orders. ordered: change of those units, 0 for a hold of a line.
local function period_note(call, cart, sku, first, ended, ordered)
  local period = period_ended(cart.periods[sku], call.now, first, ended)
  period.ordered = math.max(0, period.ordered + ordered)
  cart.periods[sku] = period
  cart.periods_changed[sku] = true
  cart.period_end = math.max(cart.period_end, period.ended)
end
