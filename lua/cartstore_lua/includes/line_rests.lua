--- @include hold_period

-- Until when the units of a line rest: it is not to be held before, unless by a checkout; 0 when it does not rest.
-- line: as it is in the cart, nil for a new one. A line that is held goes on being held until its hold ends.
local function line_rests(call, cart, line_id, line, terms)
  if not terms.reservations or (line and line.held > 0 and line.expires > call.now) then
    return 0
  end
  local _, rests_until = hold_period(call, cart, line_id, terms)
  return rests_until
end
