--- @include sku_load
--- @include sku_has_due
--- @include hold_release_sku

-- Release what is due of a SKU, if anything may be: the SKU's own hash tells that, so that mostly it costs nothing
-- beyond loading it. Returns the number of entries looked at and whether more are to be.
local function hold_release_if_due(call, sku, limit)
  local stock = sku_load(call, sku)
  if stock and not sku_has_due(call, stock) then
    return 0, false
  end
  return hold_release_sku(call, sku, limit)
end
