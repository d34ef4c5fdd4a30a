--- @include int

-- A line of an order as one text: line_id, sku, quantity, held, mode, price, revision, first hold, properties.
local function order_line_encode(line)
  return table.concat({
    line.line_id, line.sku, int(line.quantity), int(line.held), line.mode, int(line.price), int(line.revision),
    int(line.first), line.properties,
  }, '\31')
end
