-- The SKU part of a line id (model.sku_of): a line with properties ends in a mark and 12 hex digits.
local function line_sku(line_id)
  local sku = string.match(line_id, '^(.+)~~(%x%x%x%x%x%x%x%x%x%x%x%x)$')
  return sku or line_id
end
