--- @include hash_load

-- A payment with its orders and their lines, decoded; nil when the engine does not keep it.
local function payment_load(call, payment_id)
  local payment = hash_load(call.prefix .. 'payment:' .. payment_id)
  if not payment then
    return nil
  end
  payment.list = {}
  for order_id in string.gmatch(payment.orders, '%S+') do
    local order = hash_load(call.prefix .. 'order:' .. order_id)
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
    payment.list[#payment.list + 1] = order
  end
  return payment
end
