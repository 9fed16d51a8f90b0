"""`/metrics`, `/healthz` (alive: the event loop answers) and `/readyz` (may be sent requests)."""

from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


def build(
    metrics: Callable[[], tuple[bytes, str]], is_ready: Callable[[], bool], details: Callable[[], Mapping[str, str]]
) -> Starlette:
    """*metrics* gives the exposition and its content type; *details* is what `/readyz?verbose` tells, line by line."""

    def show_metrics(_: Request) -> Response:
        body, content_type = metrics()
        return Response(body, headers={"content-type": content_type})

    def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(request: Request) -> Response:
        ready = is_ready()
        lines = ["ready" if ready else "not ready"]
        if "verbose" in request.query_params:
            lines += [f"{name}: {value}" for name, value in details().items()]
        return PlainTextResponse("\n".join(lines) + "\n", status_code=200 if ready else 503)

    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )
