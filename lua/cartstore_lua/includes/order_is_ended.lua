-- Whether an order that says that it is pending claims its units no longer: its payment reaches its end first. An order
-- whose payment is not there, or cannot be read, claims them: units that somebody may claim are not free.
local function order_is_ended(prefix, payment_id)
  local payment_key = prefix .. 'payment:' .. (payment_id or '')
  local status = redis.call('TYPE', payment_key).ok == 'hash' and redis.call('HGET', payment_key, 'status')
  return status == 'paid' or status == 'expired' or status == 'cancelled' or status == 'refund_due' or status == 'refunded'
end
