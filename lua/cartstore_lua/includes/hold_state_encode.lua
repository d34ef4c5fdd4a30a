-- The inverse of hold_state_decode. 47 bits are enough for units and for milliseconds, 55 for a count of changes.
local function hold_state_encode(guest_held, rev, earliest, latest)
  return struct.pack('>i6i7i6i6', guest_held, rev, earliest, latest)
end
