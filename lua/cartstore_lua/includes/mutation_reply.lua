-- What a mutation answers: the running totals, and whether it created a line. There is room for one line
-- (line_append) from the start, since a table that grows is copied each time.
local function mutation_reply(call, created, cart)
  return {
    'OK', created, call.now, cart.version, cart.count, cart.units, cart.subtotal, cart.currency,
    nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil,
  }
end
