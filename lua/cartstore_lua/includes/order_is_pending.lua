-- Whether an order that says that it is pending still claims its units: only while its payment is pending, which reaches
-- its end first. nil when the payment is not there: a checkout may have been cut off, and nobody knows the answer.
local function order_is_pending(prefix, payment_id)
  local status = payment_id and redis.call('HGET', prefix .. 'payment:' .. payment_id, 'status')
  if not status then
    return nil
  end
  return status == 'pending'
end
