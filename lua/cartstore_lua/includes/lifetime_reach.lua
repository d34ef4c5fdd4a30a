-- Nothing may last longer than the gate's longest lifetime, or it would be due at once, as if the clock had been set
-- back: a hold or window that does raises it, which cart_save writes. A gate stays open, with the lifetime that it was
-- opened with, when processes come that have other settings.
local function lifetime_reach(call, lifetime)
  if lifetime > call.lifetime then
    call.lifetime, call.has_new_lifetime = lifetime, true
  end
end
