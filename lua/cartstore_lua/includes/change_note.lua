-- Number a change of a cart, and put the cart where whoever records carts finds those that changed. Returns the number,
-- which becomes the cart's version. Of changes that share a call (`noted` is a list then) only the first is written
-- here, and meets whatever is wrong with either key; changes_save writes the others together.
local function change_note(call, cart_id)
  local change = call.change
  if change then
    local noted = call.noted
    local count = #noted
    change = change + 1
    noted[count + 1], noted[count + 2] = change, cart_id
  else
    change = redis.call('HINCRBY', call.gate_key, 'change', 1)
    redis.call('ZADD', call.prefix .. 'activity', change, cart_id)
  end
  call.change = change
  return change
end
