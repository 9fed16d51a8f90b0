"""`authz config`: validate, show (secrets masked), schema."""

import argparse
import re
import sys
from typing import Any, Final

import yaml

from authz.cli.common import add_common, load
from authz.cli.output import DONE, note, print_json
from authz.settings import Settings


_PASSWORD: Final = re.compile(r"(?<=://)([^:@]*):.*@")  # up to the last @: a password may hold any of :/@
_PARAMETER: Final = re.compile(r"((?:password|username)=)[^&]*", re.IGNORECASE)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    config = commands.add_parser("config", help="validate, show or describe the configuration")
    verbs = config.add_subparsers(metavar="VERB", required=True, parser_class=type(config))
    for name, run, help_ in (
        ("validate", validate, "exit 0, or 2 with every fault told; secrets are read as serving would"),
        ("show", show, "the configuration in effect, secrets masked"),
        ("schema", schema, "its JSON Schema"),
    ):
        verb = verbs.add_parser(name, help=help_)
        add_common(verb)
        verb.set_defaults(command=run)


async def validate(arguments: argparse.Namespace) -> int:
    configuration = load(arguments)
    for warning in configuration.warnings:
        note(f"authz: warning: {warning}")
    if arguments.json:
        print_json({"valid": True, "source": configuration.source})
    else:
        print(f"{configuration.source}: valid")
    return DONE


async def show(arguments: argparse.Namespace) -> int:
    shown = masked(load(arguments, with_secrets=False).settings)
    if arguments.json:
        print_json(shown)
    else:
        yaml.safe_dump(shown, sys.stdout, sort_keys=False, allow_unicode=True)
    return DONE


async def schema(_: argparse.Namespace) -> int:
    described = Settings.model_json_schema()
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **described})
    return DONE


def masked(settings: Settings) -> dict[str, Any]:
    """Secrets are references, so a password within `store.url` is all there is to mask."""
    shown = settings.model_dump(mode="json")
    shown["store"]["url"] = _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", shown["store"]["url"]))
    return shown
