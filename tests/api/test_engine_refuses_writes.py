"""What the API says while the engine refuses writes because a save failed (`MISCONF`).

Method: an engine of its own with save points, whose dump file cannot be put in its place: a folder has its
name. Nothing stands in for the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ADDRESS, Api, comes

from cartstore.embedded import Engine


class Saves:
    """The background saves of one engine."""

    def __init__(self, engine: Engine, admin: Any) -> None:
        self._admin = admin
        self._blocker = Path(engine._folder) / "dump.rdb"
        admin.config_set("stop-writes-on-bgsave-error", "yes")
        admin.config_set("save", "3600 1")

    async def fail(self) -> None:
        self._blocker.mkdir()
        (self._blocker / "x").touch()
        await self._save("err")

    async def succeed(self) -> None:
        (self._blocker / "x").unlink()
        self._blocker.rmdir()
        await self._save("ok")

    async def _save(self, status: str) -> None:
        self._admin.bgsave()
        await comes(lambda: self._admin.info("persistence")["rdb_last_bgsave_status"] == status)


@pytest.fixture
def saves(own: Engine, admin: Any) -> Saves:
    return Saves(own, admin)


@pytest.fixture
async def api(own: Engine, make_api: Callable[..., Any]) -> Api:
    made: Api = await make_api(redis_url=own.url())
    return made


async def _health(api: Api, question: str) -> tuple[int, str]:
    # Not through the services, which keep an answer for half a second.
    api.app.state.services._found_at = float("-inf")
    answer = await api.anyone.get(f"/health/{question}")
    return answer.status_code, answer.text


async def test_nothing_is_applied_and_readiness_says_why_while_the_engine_s_saves_fail(
    api: Api, saves: Saves
) -> None:
    await api.sell("MUG", stock=10)
    await api.add("MUG", 2)
    calls: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
        ("POST", "/v1/cart/items", {"sku": "MUG", "quantity": 1}, {"Idempotency-Key": "add"}),
        ("PATCH", "/v1/cart/items/MUG", {"quantity": 5}, {}),
        ("PUT", "/v1/cart/items", {"items": [{"sku": "MUG", "quantity": 7}]}, {}),
        (
            "POST",
            "/v1/checkout",
            {"gateway": "simulated", "payment_method": "card", "shipping_address": ADDRESS},
            {"Idempotency-Key": "checkout"},
        ),
        (
            "POST",
            "/v1/admin/stock/MUG/adjust",
            {"delta": 5, "reason": "test", "reference": "while it fails"},
            {},
        ),
    ]
    assert (await _health(api, "ready"))[0] == 200

    await saves.fail()

    for method, path, body, headers in calls:
        caller = api.admin if "/admin/" in path else api.ana
        answer = await caller.request(method, path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE"), path
        assert "not applied" in answer.json()["detail"], path
        assert answer.headers["Retry-After"]
    status, text = await _health(api, "ready")
    assert status == 503
    assert "MISCONF" in text
    assert (await _health(api, "live"))[0] == 200
    assert (await api.ana.get("/v1/products/p-MUG")).status_code == 200

    await saves.succeed()

    assert (await _health(api, "ready"))[0] == 200
    assert (await api.ana.get("/v1/cart")).json()["total_items"] == 2, "what was refused was not applied"
    first = await api.ana.request(calls[0][0], calls[0][1], json=calls[0][2], headers=calls[0][3])
    assert first.status_code == 201
    assert "Idempotent-Replayed" not in first.headers
    checkout = await api.check_out(key="checkout")
    assert checkout["total_amount"] == "29.97"
    adjusted = await api.admin.request(calls[4][0], calls[4][1], json=calls[4][2])
    assert adjusted.json()["on_hand"] == 15
