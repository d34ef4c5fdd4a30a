--[[
  bought_read: units of one SKU that count against its purchase limit for one cart.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  sku hash               {ns:p}:sku:<sku>
  KEYS[3]  cart hash              {ns:p}:cart:<cart_id>
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  Returns  {'OK', units} | {'FENCED'}
  Faults   none
  Cost     O(orders of the customer within the window)
]]
--- @include call_begin
--- @include bought_count
--- @include int
--- @include sku_load

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local stock = sku_load(call, string.sub(KEYS[2], #call.prefix + 5))
if not stock or not stock.limit_units then
  return { 'OK', '0' }
end
return { 'OK', int(bought_count(call, stock, string.sub(KEYS[3], #call.prefix + 6))) }
