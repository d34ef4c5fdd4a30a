--[[
  rights_check: which of some commands the user of this connection may not run. The engine undoes nothing of a script
  that it cuts off, so missing rights have to be known before any script that writes is called.

  KEYS[1]  gate hash              {ns:p}:gate
  ARGV[1]  identity               of the engine; not compared: rights are checked whatever the gate says
  ARGV[2...] commands             each as its words, joined by the unit separator
  Returns  {'OK', <command that is not allowed>...}
  Faults   none
  Cost     O(commands)
]]

local reply = { 'OK' }
for index = 2, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[index], '[^\31]+') do
    words[#words + 1] = word
  end
  if not redis.acl_check_cmd(unpack(words)) then
    reply[#reply + 1] = ARGV[index]
  end
end
return reply
