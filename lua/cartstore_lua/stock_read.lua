--[[
  stock_read: the exact counters of SKUs; releases what is due of each first.
  Why atomic: "sold out" is only true in the instant in which nothing of it is due.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4]  release limit          due holds released at most, over all SKUs
  ARGV[5...] skus
  Returns  {'OK', <sku, policy, on_hand, held, sold, backordered>...} | {'AGAIN'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(skus * log holds)
]]
--- @include call_begin
--- @include hold_release_if_due
--- @include stock_append

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
local limit = tonumber(ARGV[4])
if not limit then
  return redis.error_reply('CARTBADARG release limit')
end
for index = 5, #ARGV do
  local released, more_due = hold_release_if_due(call, ARGV[index], math.max(1, limit))
  if more_due then
    return { 'AGAIN' }
  end
  limit = limit - released
end
local reply = { 'OK' }
for index = 5, #ARGV do
  stock_append(reply, call.prefix .. 'sku:' .. ARGV[index], ARGV[index])
end
return reply
