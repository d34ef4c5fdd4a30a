"""Whatever is lost, doubled, late or cut off: no unit is sold twice and nothing that was archived is gone.

Goal and method: recovery_machine.py. A history costs half a second, so few are tried in `make test`, and one
that fails is told as it is: making it smaller would cost minutes. It is found again at once from Hypothesis'
database.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from .recovery_machine import RecoveryMachine


def test_nothing_is_sold_twice_or_lost_when_everything_goes_wrong(redis_url: str, database_url: str) -> None:
    class OnTheseServers(RecoveryMachine):
        urls = (redis_url, database_url)

    run_state_machine_as_test(
        OnTheseServers,
        settings=settings(
            settings(), max_examples=max(1, settings().max_examples // 3), stateful_step_count=30
        ),
    )
