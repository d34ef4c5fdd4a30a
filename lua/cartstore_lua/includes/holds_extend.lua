--- @include periods_prune

-- Extend every hold of the cart that has not lapsed, up to its cap, as each mutation does: by moving the one
-- moment that all of them count from (line_decode). A lapsed hold is left to be released: from that instant the
-- units belong to whoever comes first. Hold periods that are over are forgotten on the way.
local function holds_extend(call, cart, terms)
  cart.extended = call.now
  local ttl_min = 0
  for line_id, line in pairs(cart.lines) do
    if line.held > 0 and line.ttl > 0 then
      if line.expires > call.now then
        line.expires = math.max(line.expires, math.min(call.now + line.ttl, line.latest))
        ttl_min = ttl_min > 0 and math.min(ttl_min, line.ttl) or line.ttl
      else
        line.ttl = 0
        cart.changed[line_id] = true
      end
    end
  end
  cart.ttl_min = ttl_min
  if cart.period_end > 0 or next(cart.periods) then
    cart.periods_gone = periods_prune(call, cart, terms)
  end
end
