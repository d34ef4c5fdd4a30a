--- @include line_rests
--- @include line_state
--- @include sku_free

-- Append one line with what is true of its SKU now to a reply: 17 values, as redis/replies.py reads them. terms: of the
-- owner, nil when they are not known; then no line is told to rest.
local function line_append(call, reply, cart, line_id, stock, guest_share_ppm, terms)
  local line = cart.lines[line_id]
  local held, expires, first = line.held, line.expires, line.first
  if expires <= call.now then
    held, expires, first = 0, 0, 0
  end
  local n = #reply
  reply[n + 1] = line_id
  reply[n + 2] = line.new_properties or cart.properties[line_id] or ''
  reply[n + 3] = line.quantity
  reply[n + 4] = held
  reply[n + 5] = expires
  reply[n + 6] = first
  reply[n + 7] = line.price
  reply[n + 8] = line.revision
  reply[n + 9] = line.ordinal
  reply[n + 10] = line.added
  reply[n + 11] = line.updated
  if not stock then
    reply[n + 12], reply[n + 13], reply[n + 14], reply[n + 15], reply[n + 16] = 0, 0, 0, 'deny', 0
    reply[n + 17] = 0
    return
  end
  reply[n + 12] = stock.price
  reply[n + 13] = stock.revision
  reply[n + 14] = line_state(stock, line.revision, cart.currency, call.now)
  reply[n + 15] = stock.policy
  reply[n + 16] = stock.policy == 'deny' and sku_free(stock, cart.is_guest, guest_share_ppm) + line.held or ''
  local may_rest = terms and stock.policy == 'deny' and stock.hold_policy == 'on_add'
  reply[n + 17] = may_rest and line_rests(call, cart, line_id, line, terms) or 0
end
