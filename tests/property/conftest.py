"""Hypothesis profiles, chosen by `HYPOTHESIS_PROFILE`: `default` takes about a minute in `make test`, `soak`
an hour or more; `hunt` stops at a first failure without making it smaller, to see fast if there is one.

`default` tries the same histories each time, so that a change is judged by what it changed. New ones are
tried by the other two."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

pytest.register_assert_rewrite("property.machine", "property.comparing")

# A history is bounded by its steps; a deadline would only measure the machine that runs it.
settings.register_profile(
    "default",
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    derandomize=True,
    # Without shrinking: it took five minutes of a run that had failed already.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
_AT_RANDOM = settings(settings.get_profile("default"), derandomize=False, phases=list(Phase))
settings.register_profile("soak", _AT_RANDOM, max_examples=4_000, stateful_step_count=80)
settings.register_profile("hunt", _AT_RANDOM, max_examples=300, phases=[Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
