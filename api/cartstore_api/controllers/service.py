"""Health, metrics, and the way to the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Controller, Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Redirect

from cartstore import exposition
from cartstore_api import metrics, schemas
from cartstore_api.operations import Public
from cartstore_api.services import answer, services_of

AnyRequest = Request[Any, Any, Any]


def is_stopping(app: Any) -> bool:
    """Whether the process was told to end; set by its server."""
    return bool(getattr(app.state, "is_stopping", False))


class ServiceController(Controller):
    """What keeps the service running asks here."""

    path = "/"
    tags = ("Service",)

    @get(
        "/health/live",
        operation_class=Public,
        operation_id="ReadLiveness",
        summary="Is the process alive?",
    )
    async def live(self) -> Response[schemas.Health]:
        """Always 200 while the process can answer at all."""
        return answer(schemas.Health(status="ok"))

    @get(
        "/health/serving",
        operation_class=Public,
        operation_id="ReadServing",
        summary="Is this process to be sent requests?",
        responses={
            503: ResponseSpec(
                data_container=schemas.Serving,
                generate_examples=False,
                description="Send requests to another process: this one starts, or it stops.",
            )
        },
    )
    async def serving(self, request: AnyRequest) -> Response[schemas.Serving]:
        """For load balancers. 200 from this process's first open gate until it is told to stop.

        Outages of engine and database do not change it: every process would say the same, and a load
        balancer without any process answers nothing at all."""
        services = services_of(request)
        if is_stopping(request.app):
            return answer(schemas.Serving(status="stopping"), status=503)
        if not services.has_served:
            await services.readiness()
        if not services.has_served:
            return answer(schemas.Serving(status="starting"), status=503)
        return answer(schemas.Serving(status="ok"))

    @get(
        "/health/ready",
        operation_class=Public,
        operation_id="ReadReadiness",
        summary="Can carts be changed, and is all well?",
        responses={
            503: ResponseSpec(
                data_container=schemas.Readiness,
                generate_examples=False,
                description="Carts cannot be changed; `checks` says why.",
            )
        },
    )
    async def ready(self, request: AnyRequest) -> Response[schemas.Readiness]:
        """For deploys and operators. 200 while carts can be changed: `status` is `degraded`, and a check says
        why, when the database is away, no worker is alive, the record is late or the engine is full. 503 when
        the engine is away or takes no writes, or when the gate is shut."""
        found = await services_of(request).readiness()
        readiness = schemas.Readiness(
            ready=found["ready"],
            status=found["status"],
            checks={name: schemas.Check(**check) for name, check in found["checks"].items()},
        )
        return answer(readiness, status=200 if readiness.ready else 503)

    @get(
        "/metrics",
        operation_class=Public,
        operation_id="ReadMetrics",
        summary="Read the metrics",
        media_type="text/plain",
    )
    async def metrics(self, request: AnyRequest) -> Response[bytes]:
        """For Prometheus. What the processes that share a folder counted, and what belongs to the shop, which
        every process tells alike."""
        services = services_of(request)
        found = await services.readiness()
        services.observer.flush()
        text = exposition.render(found, await services.store.read_engine_memory())
        # Litestar names a charset after whatever media type is a text, also after one that has a charset.
        return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})

    @get("/", include_in_schema=False)
    async def root(self) -> Redirect:
        """To the documentation, the one page that a browser can show of this service."""
        return Redirect("/schema", status_code=307)


CONTROLLERS: Sequence[type[Controller]] = (ServiceController,)
