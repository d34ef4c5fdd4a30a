-- The ids of a cart's lines in the order they were added.
local function line_order(cart)
  local ids = {}
  for line_id in pairs(cart.lines) do
    ids[#ids + 1] = line_id
  end
  table.sort(ids, function(left, right)
    return cart.lines[left].ordinal < cart.lines[right].ordinal
  end)
  return ids
end
