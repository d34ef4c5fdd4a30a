--- @include hash_load
--- @include order_load

-- A payment with its orders and their lines, decoded; nil when the engine does not keep it.
local function payment_load(call, payment_id)
  local payment = hash_load(call.prefix .. 'payment:' .. payment_id)
  if not payment then
    return nil
  end
  payment.list = {}
  for order_id in string.gmatch(payment.orders, '%S+') do
    payment.list[#payment.list + 1] = order_load(call, order_id)
  end
  return payment
end
