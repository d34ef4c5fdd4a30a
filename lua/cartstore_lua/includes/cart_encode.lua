-- The inverse of cart_decode.
local function cart_encode(cart)
  return cmsgpack.pack(
    cart.version, cart.count, cart.units, cart.subtotal, cart.held, cart.waiting, cart.ordinal,
    cart.updated - cart.created, cart.extended - cart.updated, cart.ttl_min, cart.created, cart.ttl, cart.currency,
    cart.watched_until > 0 and cart.watched_until - cart.created or 0, cart.merged_into
  )
end
