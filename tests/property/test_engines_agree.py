"""The reference model and the scripts agree on every history.

Goal: no interleaving of verbs, time and refusals gives two readings of the contract. Method: one state
machine (machine.py) per engine that is held to the model. The model against itself checks the machine's own
invariants, and that the model keeps them.
"""

from __future__ import annotations

from contract.backends import open_fakeredis, open_memory, open_real
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import EnginesMachine


def test_model_keeps_the_invariants_when_it_is_driven_alone() -> None:
    class ModelAlone(EnginesMachine):
        open_other = staticmethod(open_memory)

    run_state_machine_as_test(ModelAlone, settings=_part_of_the_profile(3))


def test_fakeredis_agrees_with_the_model_when_both_are_driven() -> None:
    class ModelAndFakeredis(EnginesMachine):
        open_other = staticmethod(open_fakeredis)

    run_state_machine_as_test(ModelAndFakeredis, settings=_part_of_the_profile(6))


def test_real_engine_agrees_with_the_model_when_both_are_driven(redis_url: str) -> None:
    class ModelAndReal(EnginesMachine):
        open_other = staticmethod(lambda: open_real(redis_url))

    run_state_machine_as_test(ModelAndReal, settings=_part_of_the_profile(1))


def _part_of_the_profile(divisor: int) -> settings:
    """The loaded profile with fewer histories: the real engine is the authority and gets most of the time."""
    return settings(settings(), max_examples=max(1, settings().max_examples // divisor))
