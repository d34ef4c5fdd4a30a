-- Number a change of a cart, and put the cart where whoever records carts finds those that changed. Returns the number,
-- which becomes the cart's version. Changes that share a call (`noted` is a list then) are written together at its
-- end, by changes_save.
local function change_note(call, cart_id)
  local noted = call.noted
  if not noted then
    local change = redis.call('HINCRBY', call.gate_key, 'change', 1)
    redis.call('ZADD', call.prefix .. 'activity', change, cart_id)
    return change
  end
  local change = (call.change or tonumber(redis.call('HGET', call.gate_key, 'change') or 0)) + 1
  call.change = change
  local count = #noted
  noted[count + 1], noted[count + 2] = change, cart_id
  return change
end
