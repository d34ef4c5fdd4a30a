--- @include period_note

-- Change the units that a line holds, in memory: the cart's and the SKU's counters move together. A line that
-- holds nothing any more leaves the index, and the end of its hold is recorded; when a hold ends is the caller's.
local function hold_set(call, cart, stock, line_id, line, held)
  local change = held - line.held
  line.held = held
  cart.held = cart.held + change
  stock.held = stock.held + change
  stock.has_moved = stock.has_moved or change ~= 0
  if cart.is_guest then
    stock.guest_held = stock.guest_held + change
  end
  if held == 0 then
    local member = 'c\31' .. cart.id .. '\31' .. line_id
    if change < 0 then
      period_note(call, cart, stock.sku, line.first, line.expires, 0)
    end
    line.expires, line.indexed, line.latest, line.first = 0, 0, 0, 0
    cart.zadd[member] = nil
    cart.zrem[member] = call.prefix .. 'holds:' .. stock.sku
  end
end
