"""The commands, their options, and where each goes."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NoReturn

from authz import __version__
from authz.cli import check, completion, config, demo, keys, serve, users
from authz.cli.output import BAD_USAGE, FAILED, CommandError, note
from authz.compiled import IS_COMPILED
from authz.core.redaction import redacted
from authz.settings import SettingsError


INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
_MAX_TOLD: Final = 1000
Command = Callable[[argparse.Namespace], Coroutine[Any, Any, int] | int]


class _Parser(argparse.ArgumentParser):
    """Takes options by their whole names, here and in all below it; repeats no token that stands where none belongs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        note(f"{self.prog}: {redacted(message, _MAX_TOLD)}. See '{self.prog} --help'")
        raise SystemExit(BAD_USAGE)


def parser() -> argparse.ArgumentParser:
    root = _Parser(prog="authz", description="External authorization for inference APIs.")
    kind = "compiled" if IS_COMPILED else "pure Python"
    root.add_argument("--version", action="version", version=f"authz {__version__} ({kind})")
    commands: argparse._SubParsersAction[Any] = root.add_subparsers(
        metavar="COMMAND", required=True, parser_class=_Parser
    )
    for module in (serve, demo, keys, users, check, config):
        module.add_to(commands)
    completion.add_to(commands, root)
    return root


def run(argv: Sequence[str]) -> int:
    """The exit status of `authz ARGV…`."""
    try:
        arguments = parser().parse_args(argv)
        command: Command = arguments.command
        outcome = command(arguments)
        return outcome if isinstance(outcome, int) else asyncio.run(outcome)
    except SettingsError as error:
        _tell_settings(error)
        return BAD_USAGE
    except CommandError as error:
        note(f"authz: {error}")
        return error.status
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the reader is gone; nothing is left to tell
        return FAILED
    except Exception as bug:
        if sys.flags.dev_mode:
            raise
        note(f"authz: a bug: {type(bug).__name__}: {bug}. 'python -X dev -m authz …' shows where")
        return FAILED


def _tell_settings(error: SettingsError) -> None:
    count = len(error.faults)
    note(f"authz: the configuration has {count} fault{'s' if count != 1 else ''}")
    for fault in error.faults:
        note(f"  {fault}")
    for hint in getattr(error, "__notes__", ()):
        note(f"authz: {hint}")
