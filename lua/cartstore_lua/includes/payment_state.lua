-- A payment's status and the end of its window; 'nothing' when it is not kept, nil when it is kept and either
-- cannot be read.
local function payment_state(payment_key)
  local kind = redis.call('TYPE', payment_key).ok
  if kind ~= 'hash' then
    return kind == 'none' and 'nothing' or nil
  end
  local read = redis.call('HMGET', payment_key, 'status', 'expires')
  local status, expires = read[1], tonumber(read[2] or '')
  local is_over = status == 'paid' or status == 'expired' or status == 'cancelled'
    or status == 'refund_due' or status == 'refunded'
  if not expires or not (is_over or status == 'pending') then
    return nil
  end
  return status, read[2]
end
