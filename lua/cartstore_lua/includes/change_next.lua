-- The number that the next change of a cart will get, for an event that has to name it before the cart is written.
local function change_next(call)
  return tonumber(redis.call('HGET', call.gate_key, 'change') or 0) + 1
end
