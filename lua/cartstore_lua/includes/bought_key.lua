-- Where it is kept what one customer has bought of a SKU. identity: the customer's cart id, or a digest of an e-mail
-- address or a phone number (customers.py).
local function bought_key(call, sku, identity)
  return call.prefix .. 'bought:' .. sku .. ':' .. identity
end
