"""The doorbell is a contract between two packages that never import each other: what the API enqueues is only
a name, and nothing but this test reads it beside the function that it stands for."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest
from cartstore_api import doorbell as of_api
from cartstore_workers import jobs, queues, timers
from rq.utils import import_attribute

from cartstore.settings import Settings


def test_the_job_of_the_api_s_doorbell_is_a_function_of_the_workers() -> None:
    function = import_attribute(of_api.JOB)

    assert inspect.isfunction(function)
    assert function.__module__ == queues.JOB_MODULE == jobs.__name__
    assert queues.job_name_of(of_api.JOB) == function.__name__
    assert f"{function.__name__}-0-" == of_api.ID_PREFIX


@pytest.mark.parametrize("name", queues.JOB_NAMES)
def test_every_job_that_may_be_rung_for_is_a_function_of_one_partition(name: str) -> None:
    function = import_attribute(f"{queues.JOB_MODULE}.{name}")

    assert inspect.isfunction(function)
    assert function.__name__ == name
    # RQ calls it with what was enqueued: the partition's number.
    assert list(inspect.signature(function).parameters) == ["partition"]
    assert get_type_hints(function)["partition"] is int


def test_timers_are_for_jobs_that_exist() -> None:
    assert set(timers.intervals(Settings())) <= set(queues.JOB_NAMES)
    assert of_api.JOB.rpartition(".")[2] in timers.intervals(Settings())
