--- @include line_sku
--- @include period_is_over

-- Forget, in memory, the hold periods that are over. Returns the names of their fields. What stays of a cart is the last
-- moment from which any of them could still count (cart_decode).
local function periods_prune(call, cart, terms)
  local gone, latest = {}, 0
  for sku, period in pairs(cart.periods) do
    if period_is_over(period, call.now, terms.rest) then
      gone[#gone + 1] = 'h:' .. sku
      cart.periods[sku], cart.periods_changed[sku] = nil, nil
    else
      latest = math.max(latest, period.ended)
    end
  end
  for line_id, line in pairs(cart.lines) do
    if line.held > 0 and line_sku(line_id) ~= line_id then
      latest = math.max(latest, line.latest)
    end
  end
  cart.period_end = latest
  return gone
end
