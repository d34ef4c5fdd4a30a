-- Whether If-Match named another version than the cart has; '' names none.
local function version_differs(cart, if_match)
  return if_match ~= '' and tonumber(if_match) ~= cart.version
end
