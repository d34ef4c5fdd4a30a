--[[
  cart_read: the whole cart with exact availability of every line. Changes no cart's version; what it may
  write is the release of holds that are due.
  Why atomic: lines, totals and availability belong to one instant.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  release limit          due holds released at most, over all SKUs
  ARGV[5]  terms                  model.CartTerms, packed; '' for those of nobody: no share of a SKU's stock is kept from
                                  the owner, and rests are not told
  Returns  {'OK', now, exists, created_at, updated_at, version, lines, units, subtotal, currency, <line>...}
           {'AGAIN'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(lines of the cart * log holds)
]]
--- @include call_begin
--- @include terms_decode
--- @include cart_load
--- @include line_order
--- @include line_sku
--- @include hold_release_if_due
--- @include sku_free
--- @include sku_has_due
--- @include sku_load
--- @include line_append

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local limit, terms = tonumber(ARGV[4]), terms_decode(ARGV[5])
if not limit or (ARGV[5] ~= '' and not terms) then
  return redis.error_reply('CARTBADARG release limit or terms')
end
local guest_share_ppm = terms and terms.guest_share_ppm or 1000000

local cart_id = string.sub(KEYS[2], #call.prefix + 6)
local cart = cart_load(call, cart_id)
local fresh, seen = true, {}
for line_id in pairs(cart.lines) do
  local sku = line_sku(line_id)
  if not seen[sku] then
    seen[sku] = true
    local released, more_due = hold_release_if_due(call, sku, math.max(1, limit))
    if more_due then
      return { 'AGAIN' }
    end
    limit = limit - released
    fresh = fresh and released == 0
  end
end
if not fresh then
  -- A release may have touched this very cart: its own lapsed lines, or lines of its own lapsed order.
  cart = cart_load(call, cart_id)
  for line_id in pairs(cart.lines) do
    if not seen[line_sku(line_id)] then
      return { 'AGAIN' }
    end
  end
end

local reply = {
  'OK', call.now, cart.exists and 1 or 0, cart.created, cart.updated, cart.version, cart.count, cart.units,
  cart.subtotal, cart.currency,
}
for _, line_id in ipairs(line_order(cart)) do
  local line, stock = cart.lines[line_id], sku_load(call, line_sku(line_id))
  if stock and stock.policy == 'deny' and sku_has_due(call, stock)
    and line.quantity - line.held > sku_free(stock, cart.is_guest, guest_share_ppm) then
    -- Less than the line wants is only told when nothing more can come of what is due.
    return { 'AGAIN' }
  end
  line_append(call, reply, cart, line_id, stock, guest_share_ppm, terms)
end
return reply
