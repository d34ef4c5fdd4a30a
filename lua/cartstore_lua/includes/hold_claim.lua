--- @include line_decode
--- @include order_is_ended

-- The units that the holder of an index entry says it holds of a SKU: a cart's line, or an order's lines
-- until its payment is at an end; 0 when nobody claims the entry. And whether the holder is a guest. nil when the holder
-- is there and cannot be read: what it claims nobody knows.
local function hold_claim(call, sku, member)
  local kind, holder, line_id = string.match(member, '^(%a)\31([^\31]+)\31?([^\31]*)$')
  local holder_key = call.prefix .. (kind == 'c' and 'cart:' or 'order:') .. (holder or '')
  local holder_type = redis.call('TYPE', holder_key).ok
  if holder_type == 'none' then
    return 0, false
  elseif holder_type ~= 'hash' then
    return nil, false
  end
  if kind == 'c' then
    local text = redis.call('HGET', holder_key, 'l:' .. line_id)
    if not text then
      return 0, false
    end
    local line = line_decode(text, 0, 0, 0)
    return line and line.held, string.sub(holder, 1, 2) == 'g.'
  end
  local order = redis.call('HMGET', holder_key, 'status', 'count', 'cart', 'payment')
  if order[1] and order[1] ~= 'pending' or not (order[1] or order[2] or order[3]) then
    return 0, false
  end
  if order_is_ended(call.prefix, order[4]) then
    return 0, false
  end
  local count = order[1] and order[3] and tonumber(order[2] or '')
  if not count then
    return nil, false
  end
  local units = 0
  for index = 1, count do
    local text = redis.call('HGET', holder_key, 'l' .. index)
    local its_sku, held = string.match(text or '', '^[^\31]+\31([^\31]+)\31%d+\31(%d+)\31')
    if not its_sku then
      return nil, false
    end
    if its_sku == sku then
      units = units + tonumber(held)
    end
  end
  return units, string.sub(order[3], 1, 2) == 'g.'
end
