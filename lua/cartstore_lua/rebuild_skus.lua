--[[
  rebuild_skus: put SKUs back: what the catalog says of them and what the ledger counted. `held` begins at 0:
  holds are taken again one by one.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2...] sku hashes           {ns:p}:sku:<sku>
  ARGV[1]  identity               the rebuild's token
  ARGV[2]  now override           ms, '' in production
  ARGV[3]  nonce                  of this call
  ARGV[4...] per SKU: JSON list of field names and values, all of them texts
  Returns  {'OK'} | {'FENCED'}
  Faults   CARTBADARG
  Cost     O(SKUs)
]]
--- @include call_begin
--- @include hold_state_encode
--- @include hash_set

local call = call_begin(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not call then
  return { 'FENCED' }
end
if #ARGV - 3 ~= #KEYS - 1 then
  return redis.error_reply('CARTBADARG as many SKUs as keys')
end

-- Far from every rev that this SKU had in an earlier epoch: a repair that was found before the engine was lost must
-- not take this counter for the one that it has seen.
local state = hold_state_encode(0, tonumber(call.epoch) * 10000000000, 0, 0)
for index = 2, #KEYS do
  local fields = cjson.decode(ARGV[index + 2])
  for _, part in ipairs({ 'held', '0', 'hold_state', state }) do
    fields[#fields + 1] = part
  end
  hash_set(KEYS[index], fields)
end
return { 'OK' }
