--- @include clock_ms
--- @include line_change

-- One of several adds that share a call. packed: its arguments as cart_add_line has them, a MessagePack array.
-- now: the time, unless the arguments name another one.
local function line_add(call, now, cart_key, sku_key, packed)
  local args = cmsgpack.unpack(packed)
  call.now = args[10] and args[10] ~= '' and clock_ms(args[10]) or now
  return line_change(call, cart_key, sku_key, args, true)
end
