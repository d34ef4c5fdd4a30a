--- @include line_decode
--- @include line_encode

-- What the lines of a cart but one become when its holds are extended: those whose hold has lapsed keep it, with the
-- lifetime 0, until it is released (line_expires).
-- Returns the shortest lifetime of the others' holds (cart_decode), and names and values of the fields that change.
local function lines_lapse(cart_key, but, created, extended, now)
  local ttl_min, changed = 0, {}
  local flat = redis.call('HGETALL', cart_key)
  for index = 1, #flat, 2 do
    local name = flat[index]
    local line = name ~= but and string.sub(name, 1, 2) == 'l:' and line_decode(flat[index + 1], created, extended, now)
    if line and line.held > 0 and line.ttl > 0 then
      if line.expires > now then
        ttl_min = ttl_min > 0 and math.min(ttl_min, line.ttl) or line.ttl
      else
        line.ttl = 0
        changed[#changed + 1] = name
        changed[#changed + 1] = line_encode(line, created)
      end
    end
  end
  return ttl_min, changed
end
