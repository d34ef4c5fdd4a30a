--- @include clock_ms
--- @include line_change

-- One of several adds that share a call. packed: its arguments from its terms on, as cart_add_line has them, as
-- MessagePack values one after the other. now: the time, unless they name another one.
local function line_add(call, now, cart_key, sku_key, packed)
  local packed_terms, line_id, quantity, hurried, if_match, key, fingerprint, properties, now_override, nonce =
    cmsgpack.unpack(packed)
  call.nonce = nonce or ''
  call.now = now_override and now_override ~= '' and clock_ms(now_override) or now
  return line_change(
    call, cart_key, sku_key, true, nil,
    packed_terms, line_id, quantity, hurried, if_match, key, fingerprint, properties
  )
end
