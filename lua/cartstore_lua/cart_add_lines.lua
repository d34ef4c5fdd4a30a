--[[
  cart_add_lines: what several calls of cart_add_line ask for, one after the other. None of them depends on another:
  each is answered as if it had come alone.
  Why atomic: each of them has to be; together they only share what every call costs, its gate and its clock.

  KEYS[1]  gate hash              {ns:p}:gate
  KEYS[2]  cart hash              of the first one; two keys for each
  KEYS[3]  sku hash               of the first one
  ARGV[1]  identity               of the engine, as the connection learned it
  ARGV[2]  arguments              of the first one, one for each: its ARGV as a MessagePack array
  Returns  a reply for each
  Faults   CARTBADARG             in place of its reply, as everything that only one of them meets
  Function no flags
  Cost     what they cost alone
]]
--- @include clock_ms
--- @include call_begin
--- @include line_change

local call = call_begin(KEYS[1], ARGV[1], '', '')
local now = call and call.now
local replies = {}
for index = 2, #ARGV do
  local reply = { 'FENCED' }
  if call then
    local args = cmsgpack.unpack(ARGV[index])
    call.now = args[10] and args[10] ~= '' and clock_ms(args[10]) or now
    local _, given = pcall(line_change, call, KEYS[2 * index - 2], KEYS[2 * index - 1], args, true)
    reply = type(given) == 'table' and given or redis.error_reply('ERR ' .. tostring(given))
  end
  replies[index - 1] = reply
end
return replies
