"""`authz serve`: run the sidecar."""

import argparse

from authz import app
from authz.adapters.logs import setup as logs
from authz.adapters.redis.embedded import EmbeddedStoreError
from authz.cli.common import add_common, load
from authz.cli.output import DONE, CommandError


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser("serve", help="run the sidecar")
    add_common(serve, json=False)
    serve.add_argument("--log-level", choices=logs.LEVELS, default="info")
    serve.set_defaults(command=run)


async def run(arguments: argparse.Namespace) -> int:
    configuration = load(arguments)
    logs.configure(arguments.log_level)
    try:
        await app.serve(configuration)
    except (app.BusyAddressError, EmbeddedStoreError) as exc:
        raise CommandError(str(exc)) from exc
    return DONE
