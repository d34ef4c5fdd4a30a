-- The inverse of line_decode.
local function line_encode(line, created)
  local indexed, latest, first = 0, 0, 0
  if line.held > 0 then
    indexed, latest, first = line.indexed - created, line.latest - created, line.first - created
  end
  return cmsgpack.pack(
    line.quantity, line.held, indexed, latest, first, line.ttl, line.price, line.revision, line.ordinal,
    line.added - created, line.updated - created
  )
end
