--- @include hash_load

-- An order with its lines, decoded; nil when the engine does not keep it.
local function order_load(call, order_id)
  local order = hash_load(call.prefix .. 'order:' .. order_id)
  if not order then
    return nil
  end
  order.id = order_id
  order.lines = {}
  for index = 1, tonumber(order.count) do
    local line_id, sku, quantity, held, mode, price, revision, first, properties = string.match(
      order['l' .. index],
      '^([^\31]+)\31([^\31]+)\31(%d+)\31(%d+)\31(%a+)\31(%d+)\31(%d+)\31(%d+)\31(.*)$'
    )
    order.lines[index] = {
      line_id = line_id,
      sku = sku,
      quantity = tonumber(quantity),
      held = tonumber(held),
      mode = mode,
      price = tonumber(price),
      revision = tonumber(revision),
      first = tonumber(first),
      properties = properties,
    }
  end
  return order
end
