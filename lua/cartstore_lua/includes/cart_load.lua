--- @include cart_decode
--- @include line_decode
--- @include period_decode

-- A whole cart for reading and changing.
local function cart_load(call, cart_id)
  local flat = redis.call('HGETALL', call.prefix .. 'cart:' .. cart_id)
  local fields = {}
  for index = 1, #flat, 2 do
    fields[flat[index]] = flat[index + 1]
  end
  local cart = cart_decode(call, cart_id, fields.a)
  for name, value in pairs(fields) do
    local mark = string.sub(name, 1, 2)
    if mark == 'l:' then
      local line = line_decode(value, cart.created, cart.extended, call.now)
      cart.lines[string.sub(name, 3)] = line
      cart.is_damaged = cart.is_damaged or not line
    elseif mark == 'p:' then
      cart.properties[string.sub(name, 3)] = value
    elseif mark == 'h:' then
      cart.periods[string.sub(name, 3)] = period_decode(value, cart.created)
    end
  end
  return cart
end
