--- @include sku_read

-- A SKU as sku_read gives it, kept for the whole call, so that two lines of one SKU see each other's units before anything is written.
local function sku_load(call, sku)
  local known = call.skus[sku]
  if not known then
    known = sku_read(call.prefix .. 'sku:' .. sku, sku, call.now)
    call.skus[sku] = known
  end
  return known
end
