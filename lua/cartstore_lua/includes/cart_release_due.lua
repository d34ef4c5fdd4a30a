--- @include cart_load
--- @include hold_release_if_due
--- @include line_sku

-- Release what is due of every SKU among a cart's lines, then load the cart. Orders of this very cart may
-- fall due here and return lines of further SKUs, so it goes round until none is new.
-- Returns the cart and whether more holds are due than the limit allowed to release.
local function cart_release_due(call, cart_id, limit)
  local cart = cart_load(call, cart_id)
  local seen, more = {}, false
  for _ = 1, 3 do
    local released_any = false
    for line_id in pairs(cart.lines) do
      local sku = line_sku(line_id)
      if not seen[sku] then
        seen[sku] = true
        local released, more_due = hold_release_if_due(call, sku, math.max(1, limit))
        limit = limit - released
        more = more or more_due
        released_any = released_any or released > 0
      end
    end
    if not released_any then
      return cart, more
    end
    cart = cart_load(call, cart_id)
  end
  return cart, true
end
