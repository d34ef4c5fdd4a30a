--- @include line_sku

-- Move the expiry of every hold of the cart that has not lapsed, up to its cap. A lapsed hold is left to be
-- released: from that instant the units belong to whoever comes first.
-- only: set of line ids, nil for all lines.
local function holds_extend(call, cart, terms, only)
  for line_id, line in pairs(cart.lines) do
    if line.held > 0 and line.expires > call.now and (not only or only[line_id]) then
      local ttl = line.ttl > 0 and line.ttl or terms.ttl
      local expires = math.min(call.now + ttl, line.first + terms.cap)
      if expires > line.expires then
        line.expires = expires
        cart.changed[line_id] = true
        cart.zadd['c\31' .. cart.id .. '\31' .. line_id] = { line_sku(line_id), line, false }
      end
    end
  end
end
