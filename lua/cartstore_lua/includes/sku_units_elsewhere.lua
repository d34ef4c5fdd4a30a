--- @include line_sku

-- Units of a SKU in a cart's lines but one. Reads the names of all fields, so it is only asked for a SKU whose rules count
-- over lines, and a cart that has other lines.
local function sku_units_elsewhere(cart_key, sku, line_field)
  local units = 0
  for _, field in ipairs(redis.call('HKEYS', cart_key)) do
    if field ~= line_field and string.sub(field, 1, 2) == 'l:' and line_sku(string.sub(field, 3)) == sku then
      units = units + cmsgpack.unpack(redis.call('HGET', cart_key, field))
    end
  end
  return units
end
