"""`authz serve`: run the sidecar."""

import argparse
import contextlib
import os
import resource
from typing import Final

from authz import sidecar
from authz.adapters.logs import setup as logs
from authz.adapters.redis.embedded import EmbeddedStoreError
from authz.cli.common import add_common, load
from authz.cli.output import DONE, CommandError
from authz.settings.load import find_file


ENOUGH_FILES: Final = 10_240  # macOS has no hard limit, and takes no more than this


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser("serve", help="run the sidecar")
    add_common(serve, json=False)
    serve.add_argument("--log-level", choices=logs.LEVELS, default="info")
    serve.set_defaults(command=run)


async def run(arguments: argparse.Namespace) -> int:
    logs.configure(arguments.log_level)
    raise_file_limit()
    try:
        await sidecar.serve(lambda: load(arguments), find_file(arguments.config, os.environ))
    except (sidecar.BusyAddressError, EmbeddedStoreError) as exc:
        raise CommandError(str(exc)) from exc
    return DONE


def raise_file_limit() -> None:
    """
    As many open files as this process can allow itself: each connection is one.

    The soft limit, 1,024 for most shells and services, is for programs that use select(2); we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, ENOUGH_FILES) if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):  # the system may allow less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
