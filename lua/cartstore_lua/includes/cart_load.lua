--- @include line_decode

-- A whole cart for reading and changing; an absent one is an empty cart made now. Nothing is written before
-- cart_save. `changed` and `gone` collect line ids, `zrem` and `zadd` the hold entries to take out and put in.
local function cart_load(call, cart_id)
  local key = call.prefix .. 'cart:' .. cart_id
  local flat = redis.call('HGETALL', key)
  local fields = {}
  for index = 1, #flat, 2 do
    fields[flat[index]] = flat[index + 1]
  end
  local cart = {
    id = cart_id,
    key = key,
    is_guest = string.sub(cart_id, 1, 2) == 'g.',
    exists = #flat > 0,
    version = tonumber(fields.v or 0),
    units = tonumber(fields.n or 0),
    subtotal = tonumber(fields.s or 0),
    currency = fields.c or '',
    created = tonumber(fields.t or call.now),
    updated = tonumber(fields.u or call.now),
    count = tonumber(fields.k or 0),
    held = tonumber(fields.h or 0),
    waiting = tonumber(fields.w or 0),
    ordinal = tonumber(fields.o or 0),
    ttl = tonumber(fields.x or 0),
    lines = {},
    properties = {},
    changed = {},
    gone = {},
    zrem = {},
    zadd = {},
  }
  cart.was_counted = cart.held + cart.waiting > 0
  for name, value in pairs(fields) do
    local mark = string.sub(name, 1, 2)
    if mark == 'l:' then
      cart.lines[string.sub(name, 3)] = line_decode(value, cart.created)
    elseif mark == 'p:' then
      cart.properties[string.sub(name, 3)] = value
    end
  end
  return cart
end
