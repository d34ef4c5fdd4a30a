-- Units of a SKU that an owner can have beyond what he holds; guests together only up to their share.
local function sku_free(stock, is_guest, guest_share_ppm)
  local free = stock.on_hand - stock.held
  if is_guest and guest_share_ppm < 1000000 then
    free = math.min(free, math.floor(stock.on_hand * guest_share_ppm / 1000000) - stock.guest_held)
  end
  return free > 0 and free or 0
end
