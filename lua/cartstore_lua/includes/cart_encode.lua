-- What changes of a cart with every mutation, as cart_decode reads it.
local function cart_encode(cart)
  return string.format(
    '%.0f %d %d %.0f %d %d %d %d %d', cart.version, cart.count, cart.units, cart.subtotal + 0, cart.held, cart.waiting,
    cart.ordinal, cart.updated - cart.created, cart.extended - cart.created
  )
end
