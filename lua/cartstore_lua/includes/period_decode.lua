-- The hold period of an owner and a SKU from what the cart's hash keeps of it; nil when the text is none. Times are
-- distances from the cart's creation.
-- first: when the owner first held units of the SKU in this period. ended: when a hold of it last ended. ordered: units
-- that the owner's pending orders hold; as long as there are any, the owner holds units of the SKU.
local function period_decode(packed, created)
  local is_packed, first, ended, ordered, more = pcall(cmsgpack.unpack, packed)
  if not is_packed or type(ordered) ~= 'number' or more then
    return nil
  end
  return { first = created + first, ended = created + ended, ordered = ordered }
end
