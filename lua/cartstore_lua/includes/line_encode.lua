-- The inverse of line_decode. ttl is the SKU's own hold lifetime, 0 for the owner's: stored so that a
-- mutation can extend the holds of all lines without reading their SKUs.
local function line_encode(line, created)
  local expires, first = 0, 0
  if line.held > 0 then
    expires = line.expires - created
    first = line.first - created
  end
  return string.format(
    '%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f',
    line.quantity, line.held, expires, first, line.ttl, line.price, line.revision, line.ordinal,
    line.added - created, line.updated - created
  )
end
