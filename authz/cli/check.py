"""`authz check`: what would be decided about a request, step by step, and why. Spends nothing."""

import argparse
from pathlib import Path
from typing import Final

from authz.adapters.admin.service import ROUTE
from authz.adapters.logs.silent import Silent
from authz.adapters.portal import inferexai, inferno, vinfer
from authz.app import StoreParts, SystemClock, authorizer
from authz.cli.common import add_common, command_store, load, usage_error
from authz.cli.output import DONE, FAILED, print_json, print_table
from authz.core.decision import Fault
from authz.core.explain import Outcome, Step, explain
from authz.core.problems import STATUS
from authz.core.request import PlainRequest, Request
from authz.core.rules import STAGE, Stage
from authz.settings import Settings


_PATHS: Final = {"inferexai": inferexai.PATH, "inferno": inferno.PATH, "vinfer": vinfer.PATH}  # of the portals


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = commands.add_parser("check", help="explain what would be decided about a request; spends nothing")
    check.add_argument("--method", metavar="M", default="GET")
    check.add_argument("--path", metavar="P", required=True, help="with the query, if any")
    check.add_argument("-H", "--header", metavar="'name: value'", action="append", default=[], dest="headers")
    check.add_argument("--body", metavar="FILE", type=Path, help="what is sent; without it, headers alone are judged")
    add_common(check)
    check.set_defaults(command=run)


async def run(arguments: argparse.Namespace) -> int:
    request = _request(arguments)
    configuration = load(arguments)
    async with command_store(configuration) as store:
        clock = SystemClock()
        pipeline = authorizer(configuration, StoreParts.on(store, clock, Silent()), clock)
        decision = await pipeline.check(request, spend=False)
    door = _door(request.path, configuration.settings)
    steps = (*_told_of(door), *explain(decision))
    kind = type(decision).__name__.lower()
    if arguments.json:
        shown = [{"step": step.name, "outcome": step.outcome.value.lower(), "detail": step.detail} for step in steps]
        status = STATUS[decision.reason]
        told = {"decision": kind, "reason": decision.reason, "status": status, "route": decision.route, "door": door}
        print_json({**told, "steps": shown})
    else:
        print_table(("STEP", "", ""), [(step.name, step.outcome, step.detail) for step in steps])
        condition = ", if Envoy asks all the same" if door else ""
        print(f"\n{kind}: {STATUS[decision.reason]} {decision.reason}{condition}")
    return FAILED if isinstance(decision, Fault) else DONE


def _door(path: str, settings: Settings) -> str | None:
    """Which of authz's own doors serves *path*, by the name of its decisions in logs and metrics; None: the API."""
    if settings.listen.http is None:
        return None
    doors = {ROUTE: "/authz/v1", **{f"portal-{name}": _PATHS[name] for name in settings.portals}}
    return next((name for name, root in doors.items() if path == root or path.startswith(f"{root}/")), None)


def _told_of(door: str | None) -> tuple[Step, ...]:
    if door is None:
        return ()
    told = f"one of authz's own ({door}), which asks who calls by itself: Envoy is to hand it over, and not to ask here"
    return (Step("door", Outcome.NOT_REACHED, told),)


def _request(arguments: argparse.Namespace) -> Request:
    headers: dict[str, str] = {}
    for header in arguments.headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise usage_error("-H takes 'name: value'")  # what was given is not repeated: it may be a key
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    path, _, query = arguments.path.partition("?")
    if not path.startswith("/"):
        raise usage_error("--path begins with /, as '/v1/models' does")
    stage, body = Stage.HEADERS, b""
    if arguments.body is not None:
        stage, body = Stage.BODY, _read(arguments.body)
        headers.setdefault("content-length", str(len(body)))
    return PlainRequest(arguments.method, path, query, headers, context={STAGE: stage}, body=body)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise usage_error(f"--body {file}: {exc.strerror}") from exc
