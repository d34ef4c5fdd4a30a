"""Hypothesis profiles, chosen by `HYPOTHESIS_PROFILE`.

default   about a minute, in `make test`
soak      an hour or so
hunt      stops at the first failure without making it smaller: fast, to see whether there is one
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

pytest.register_assert_rewrite("property.machine", "property.comparing")

# Time per history is bounded by its steps; a deadline per example would only measure the machine. Histories
# without any failure are long, and shrinking one is worth its time.
_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}

settings.register_profile("default", max_examples=60, stateful_step_count=50, **_COMMON)
settings.register_profile("soak", max_examples=4_000, stateful_step_count=80, **_COMMON)
settings.register_profile(
    "hunt", max_examples=300, stateful_step_count=50, phases=[Phase.generate], **_COMMON
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
