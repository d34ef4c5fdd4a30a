"""Every step of what must survive a death has a failpoint behind it; a new step without one fails here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from cartstore import failpoints
from cartstore.errors import ConfigurationError

PACKAGE = Path(failpoints.__file__).parent

STEPS = {
    "store.py": {"begin_checkout": "checkout", "apply_verdict": "settle"},
    "archive/drain.py": {"drain": "drain", "_meanwhile": "drain", "_apply": "quarantine"},
    "recovery/snapshots.py": {"take_snapshots": "snapshot", "sweep_activity": "snapshot"},
    "recovery/rebuild.py": {"_put_back": "rebuild"},
    "recovery/gate.py": {"_reopen": "recovery", "_rebuild": "rebuild", "_take_over": "take_over"},
    "recovery/take_over.py": {"save_carts": "take_over"},
    "recovery/reconcile.py": {"run": "reconcile", "_count_claims": "reconcile"},
    "recovery/purchases.py": {"load_unloaded": "purchases"},
}
"""Functions in which each awaited step is followed by a failpoint, by file."""

NO_STEPS = {
    *("sleep", "anext", "_identities", "_total_in_minor", "_wait_for_the_old_primary", "cursor"),
    "read_payment",
}
"""Awaited, but nothing happens there that a death could leave half done."""


def bodies_of(function: ast.AST) -> list[list[ast.stmt]]:
    return [
        part
        for node in ast.walk(function)
        for name in ("body", "orelse", "finalbody")
        if isinstance(part := getattr(node, name, None), list) and part
    ]


def called_in(statement: ast.stmt) -> set[str]:
    """Names of what a simple statement awaits."""
    if isinstance(
        statement, ast.If | ast.For | ast.While | ast.With | ast.Try | ast.AsyncWith | ast.AsyncFor
    ):
        return set()
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
            function = node.value.func
            names.add(function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "?"))
    return names - NO_STEPS


def reaches(statement: ast.stmt | None) -> bool:
    return statement is not None and "reach(" in ast.unparse(statement)


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in STEPS.items() for name in names])
def test_step_has_a_failpoint_when_it_is_awaited(file: str, name: str) -> None:
    tree = ast.parse((PACKAGE / file).read_text())
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef) and node.name == name
    ]
    assert functions, f"{file} has no {name}"
    missing = []
    for function in functions:
        for body in bodies_of(function):
            for place, statement in enumerate(body):
                following = body[place + 1 : place + 3]
                is_step = called_in(statement) and not isinstance(statement, ast.Return)
                is_covered = any(map(reaches, following)) or _is_branch_of_one(function, body)
                if is_step and not is_covered:
                    missing.append(f"{file}:{statement.lineno} {called_in(statement)}")
    assert not missing, f"steps without a failpoint: {missing}"


def _is_branch_of_one(function: ast.AsyncFunctionDef, body: list[ast.stmt]) -> bool:
    """Whether the failpoint stands behind the whole if that this body is a branch of."""
    for other in bodies_of(function):
        for place, statement in enumerate(other):
            branches = [part for part in bodies_of(statement) if part is body]
            if isinstance(statement, ast.If) and branches and any(map(reaches, other[place + 1 : place + 2])):
                return True
    return False


def test_failpoints_are_all_reached_when_the_code_is_read() -> None:
    spelled: list[str] = []
    for file in PACKAGE.rglob("*.py"):
        spelled += re.findall(r'reach\("([a-z_.]+)"\)', file.read_text())

    assert set(spelled) == failpoints.FAILPOINTS


@pytest.mark.parametrize("spec", ["nothing.here", "drain.read:x", "drain"])
def test_arm_refuses_when_the_name_is_unknown(spec: str) -> None:
    with pytest.raises(ConfigurationError):
        failpoints.arm(spec)
