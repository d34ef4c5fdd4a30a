"""Goal: whatever machines, disks and clients do to a whole `cartstore up`, it keeps its promises and is well
again without a hand on anything but the cause.

Method: the campaign of `test_attacks.py` on one `up`: damaged log, descriptors, silent sockets. The full disk
and the killed tree have tests of their own (`test_full_disk.py`, `test_unclean_death.py`), the hung worker
too (`test_watching.py`); `make soak` strikes all of them.
"""

from __future__ import annotations

from .campaign import Campaign
from .product_faults import DescriptorsExhausted, LogDamaged, SilentSockets
from .product_stage import product_staged

PLAN = [(LogDamaged,), (SilentSockets,), (DescriptorsExhausted,)]


async def test_promises_are_kept_when_the_whole_product_is_attacked() -> None:
    async with product_staged(has_disk=False) as stage:
        report = await Campaign(stage, seed=3, shoppers=6, think_seconds=0.02).run(PLAN)

        assert not report.violations, (report.violations[:5], stage.logs()[-5_000:])
    assert [its.name for its in report.struck] == [fault.name for (fault,) in PLAN]
    assert all(its.well_seconds is not None for its in report.struck)
    assert stage.damage.events
    assert report.orders > 10
