--- @include int

-- Keep a payment that was terminal and archived for as long as its new state is not archived, and list it
-- among its owner's payments again. payment: as payment_load gives it.
local function payment_revive(call, payment)
  redis.call('PERSIST', call.prefix .. 'payment:' .. payment.id)
  for _, order in ipairs(payment.list) do
    redis.call('PERSIST', call.prefix .. 'order:' .. order.id)
  end
  redis.call('ZADD', call.prefix .. 'orders:' .. payment.cart, payment.created, payment.id)
end
