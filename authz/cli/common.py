"""What several commands share."""

import argparse
import contextlib
import os
import re
from collections.abc import AsyncGenerator

from authz.adapters.logs.silent import Silent
from authz.adapters.redis.client import Store
from authz.app import PATIENCE_S, open_store
from authz.cli.output import BAD_USAGE, CommandError
from authz.ports import StoreFault
from authz.settings import Configuration, load_settings
from authz.settings.load import find_file


def add_common(command: argparse.ArgumentParser, *, json: bool = True) -> None:
    """The options of every command."""
    command.add_argument("--config", metavar="FILE", help="default: $AUTHZ_CONFIG, else ./authz.yaml, else defaults")
    if json:
        command.add_argument("--json", action="store_true", help="print JSON")


def load(arguments: argparse.Namespace, *, with_secrets: bool = True) -> Configuration:
    """Raises: SettingsError."""
    return load_settings(find_file(arguments.config, os.environ), os.environ, with_secrets=with_secrets)


@contextlib.asynccontextmanager
async def command_store(configuration: Configuration) -> AsyncGenerator[Store]:
    """The configured store, with patience. A fault of it ends the command in one sentence."""
    try:
        async with open_store(configuration.settings, Silent(), timeout_s=PATIENCE_S) as store:
            yield store
    except StoreFault as fault:
        raise CommandError(str(fault)) from fault


def usage_error(message: str) -> CommandError:
    return CommandError(message, BAD_USAGE)


def filled(text: str) -> str:
    """An option's value: an empty one is a script's unset variable, and widens what it was to narrow."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def positive(text: str) -> int:
    if re.fullmatch("[0-9]{1,9}", text) is None or int(text) == 0:
        raise argparse.ArgumentTypeError("must be a whole number above zero")
    return int(text)
