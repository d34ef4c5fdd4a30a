-- What a SKU's hash keeps of its holds beside `held`, in one field, since every mutation of a line reads and writes all of
-- it: guest_held, rev, earliest, latest (docs/keys.md; 0 is none of the last two). Raises for a text that is too short.
local function hold_state_decode(packed)
  return struct.unpack('>i6i7i6i6', packed)
end
