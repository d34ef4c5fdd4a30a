--- @include int

-- Where it is noted that a payment's id was used: one of 16,384 sets, and its member there. Both are cut from the
-- id's digest, so that a set keeps four bytes for each payment, up to the 512 that an engine stores so. Nothing for
-- an id of another form, which no checkout has given.
local function used_place(call, payment_id)
  local first, rest = string.match(payment_id, '^p%d+%-(%x%x%x%x)(%x%x%x%x%x%x%x)')
  if not first then
    return nil
  end
  return call.prefix .. 'used:' .. int(tonumber(first, 16) % 16384), tonumber(rest, 16)
end
