"""`authz serve`: run the sidecar."""

import argparse
import os

from authz import sidecar
from authz.adapters.logs import setup as logs
from authz.adapters.redis.embedded import EmbeddedStoreError
from authz.cli.common import add_common, load
from authz.cli.output import DONE, CommandError
from authz.settings.load import find_file


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser("serve", help="run the sidecar")
    add_common(serve, json=False)
    serve.add_argument("--log-level", choices=logs.LEVELS, default="info")
    serve.set_defaults(command=run)


async def run(arguments: argparse.Namespace) -> int:
    logs.configure(arguments.log_level)
    try:
        await sidecar.serve(lambda: load(arguments), find_file(arguments.config, os.environ))
    except (sidecar.BusyAddressError, EmbeddedStoreError) as exc:
        raise CommandError(str(exc)) from exc
    return DONE
