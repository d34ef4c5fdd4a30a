--- @include int

-- Append one line with what is true of its SKU now to a reply: 16 texts, as redis/replies.py reads them.
local function line_append(call, reply, cart, line_id, stock)
  local line = cart.lines[line_id]
  local held, expires, first = line.held, line.expires, line.first
  if expires <= call.now then
    held, expires, first = 0, 0, 0
  end
  local available, price, revision, active, policy = '0', '0', '0', '0', 'deny'
  if stock then
    price, revision, policy = int(stock.price), int(stock.revision), stock.policy
    active = stock.active and '1' or '0'
    available = policy == 'deny' and int(math.max(0, stock.on_hand - stock.held) + line.held) or ''
  end
  local values = {
    line_id, line.new_properties or cart.properties[line_id] or '', int(line.quantity), int(held), int(expires),
    int(first), int(line.price), int(line.revision), int(line.ordinal), int(line.added), int(line.updated), price,
    revision, active, policy, available,
  }
  for index = 1, 16 do
    reply[#reply + 1] = values[index]
  end
end
