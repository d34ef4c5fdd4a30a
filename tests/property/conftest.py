"""Hypothesis profiles. `HYPOTHESIS_PROFILE=soak` runs for hours' worth of histories instead of a minute's."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Time per history is bounded by its steps; a deadline per example would only measure the machine. Histories
# without any failure are long, and shrinking one is worth its time.
_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}

settings.register_profile("default", max_examples=70, stateful_step_count=50, **_COMMON)
settings.register_profile("soak", max_examples=4_000, stateful_step_count=80, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
