--- @include bought_take_out

-- The orders of a payment count against no purchase limit any more. payment: as payment_load gives it; one that counted
-- against none has no `buyer`.
local function bought_forget(call, payment)
  if not payment.buyer then
    return
  end
  for _, order in ipairs(payment.list) do
    for _, line in ipairs(order.lines) do
      bought_take_out(call, line.sku, payment.buyer, order.id, line.quantity)
    end
  end
end
