--- @include sku_load
--- @include sku_has_due
--- @include hold_release_sku

-- Release what is due of a SKU, if anything may be: the SKU's own hash tells that, so that mostly it costs nothing
-- beyond loading it. Returns the number of entries looked at and whether more are to be before anything is told:
-- when a crowd falls due at once, what is free already will do, and only "none left" has to wait for the rest.
-- Whoever refuses for want of units asks sku_has_due once more.
local function hold_release_if_due(call, sku, limit)
  local stock = sku_load(call, sku)
  if stock and not sku_has_due(call, stock) then
    return 0, false
  end
  local looked, more = hold_release_sku(call, sku, limit)
  if more then
    stock = sku_load(call, sku)
    more = not stock or stock.on_hand <= stock.held
  end
  return looked, more
end
