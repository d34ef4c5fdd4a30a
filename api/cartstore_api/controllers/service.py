"""Health, metrics, and the way to the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Controller, Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Redirect

from cartstore_api import metrics, schemas
from cartstore_api.operations import Public
from cartstore_api.services import answer, services_of

AnyRequest = Request[Any, Any, Any]


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
        "/health/ready",
        operation_class=Public,
        operation_id="ReadReadiness",
        summary="Can requests be served?",
        responses={
            503: ResponseSpec(
                data_container=schemas.Readiness,
                generate_examples=False,
                description="Something is not fine; `checks` says what.",
            )
        },
    )
    async def ready(self, request: AnyRequest) -> Response[schemas.Readiness]:
        """Engine, gate, database and drain; 503 with the same body when one of them is not fine."""
        found = await services_of(request).store.readiness()
        readiness = schemas.Readiness(
            ready=found["ready"],
            checks={name: schemas.Check(**check) for name, check in found["checks"].items()},
        )
        status = 200 if readiness.ready else 503
        return answer(readiness, status=status)

    @get(
        "/metrics",
        operation_class=Public,
        operation_id="ReadMetrics",
        summary="Read the metrics",
        media_type="text/plain",
    )
    async def metrics(self, request: AnyRequest) -> Response[bytes]:
        """For Prometheus: one view over all processes."""
        services = services_of(request)
        found = await services.store.readiness()
        services.observer.flush()
        text = metrics.render(found["checks"], await services.store.read_engine_memory())
        # Litestar names a charset after whatever media type is a text, also after one that has a charset.
        return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})

    @get("/", include_in_schema=False)
    async def root(self) -> Redirect:
        """To the documentation, the one page that a browser can show of this service."""
        return Redirect("/schema", status_code=307)


CONTROLLERS: Sequence[type[Controller]] = (ServiceController,)
