-- The inverse of cart_decode. A moment in the millisecond of the cart's creation is not none, hence the 1.
local function cart_encode(cart)
  return cmsgpack.pack(
    cart.version, cart.count, cart.units, cart.subtotal, cart.held, cart.waiting, cart.ordinal,
    cart.updated - cart.created, cart.extended - cart.updated, cart.ttl_min, cart.created, cart.ttl, cart.currency,
    cart.watched_until > 0 and cart.watched_until - cart.created or 0, cart.merged_into,
    cart.period_end > 0 and math.max(1, cart.period_end - cart.created + 1) or 0
  )
end
