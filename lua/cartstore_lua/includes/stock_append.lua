-- Append a SKU's level to a reply: sku, policy, on_hand, held, sold, backordered; policy '' when unknown.
local function stock_append(reply, sku_key, sku)
  local read = redis.call('HMGET', sku_key, 'fields', 'on_hand', 'held', 'sold', 'backordered')
  reply[#reply + 1] = sku
  if not read[1] then
    for _ = 1, 5 do
      reply[#reply + 1] = ''
    end
    return
  end
  reply[#reply + 1] = string.match(read[1], '^%d+ %d+ %u+ [01] (%a+) ')
  for index = 2, 5 do
    reply[#reply + 1] = read[index]
  end
end
