"""`authz keys`: create, list, show, revoke; straight in the store, which is how the first admin key is made."""

import argparse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from authz.adapters.redis.client import Store
from authz.adapters.redis.registry import RedisKeyRegistry
from authz.admin.keys import KeyAdmin, KeyRequestError, NewKey, NoSuchKeyError
from authz.app import key_admin
from authz.cli.common import add_common, command_store, load, usage_error
from authz.cli.output import DONE, CommandError, note, print_json, print_table, rfc3339
from authz.core.bucket import Limit
from authz.core.keyrecord import KeyRecord
from authz.settings import Configuration
from authz.settings.units import format_limit, parse_duration_ms, parse_limit


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = commands.add_parser("keys", help="create, list, show and revoke keys")
    verbs = keys.add_subparsers(metavar="VERB", required=True, parser_class=type(keys))
    _add_create(verbs.add_parser("create", help="make a key; its token is shown once"))
    list_ = verbs.add_parser("list", help="every key, newest first")
    list_.set_defaults(command=list_keys)
    show_ = verbs.add_parser("show", help="one key")
    show_.add_argument("id", metavar="ID", help="the key's id or display prefix")
    show_.set_defaults(command=show)
    revoke_ = verbs.add_parser("revoke", help="refuse a key from now on, for ever")
    revoke_.add_argument("id", metavar="ID", nargs="?", help="the key's id or display prefix")
    revoke_.add_argument("--subject", metavar="S", help="everything of this subject issued up to now")
    revoke_.add_argument("--workspace", metavar="W", help="everything of this workspace issued up to now")
    revoke_.add_argument("--reason", metavar="R", default="", help="kept with the key")
    revoke_.set_defaults(command=revoke)
    for verb in verbs.choices.values():
        add_common(verb)


def _add_create(create_: argparse.ArgumentParser) -> None:
    create_.add_argument("--name", metavar="N", required=True, help="for people")
    create_.add_argument("--subject", metavar="S", default="", help="whom it speaks for; default: the key's id")
    create_.add_argument("--workspace", metavar="W", default="")
    create_.add_argument("--scope", metavar="S", action="append", default=[], dest="scopes")
    create_.add_argument("--expires", metavar="90d", help="default: never")
    create_.add_argument("--limit", metavar="requests=60/1m", action="append", default=[], dest="limits")
    create_.add_argument("--kind", choices=["jwt"], default="jwt")
    create_.set_defaults(command=create)


@asynccontextmanager
async def _administer(
    arguments: argparse.Namespace, *, signing: bool
) -> AsyncGenerator[tuple[KeyAdmin, Configuration]]:
    """Only making a key needs the signing secret: revoking works without."""
    configuration = load(arguments, with_secrets=signing)
    async with command_store(configuration) as store:
        try:
            yield key_admin(configuration, store) if signing else _without_signing(configuration, store), configuration
        except KeyRequestError as exc:
            raise usage_error(str(exc)) from exc
        except NoSuchKeyError as exc:
            raise CommandError(_no_such_key(str(exc))) from exc


def _no_such_key(given: str) -> str:
    """A token that is given for an id is not repeated."""
    if _is_token(given):
        return (
            "that is a token, or the beginning of one: give the key's id or display prefix ('authz keys list' has them)"
        )
    return f"there is no key {given!r}"


def _is_token(given: str) -> bool:
    return len(given) > 64 or "eyJ" in given


def _without_signing(configuration: Configuration, store: Store) -> KeyAdmin:
    settings = configuration.settings
    return KeyAdmin(RedisKeyRegistry(store), _NoSigner(), settings.keys.prefix, frozenset())


class _NoSigner:
    def sign(self, token: object) -> str:  # noqa: ARG002 - a port's name
        raise CommandError("this command does not sign")


async def create(arguments: argparse.Namespace) -> int:
    new = NewKey(
        name=arguments.name,
        subject=arguments.subject,
        workspace=arguments.workspace,
        scopes=tuple(arguments.scopes),
        lifetime_s=_lifetime_s(arguments.expires),
        limits=_limits(arguments.limits),
    )
    async with _administer(arguments, signing=True) as (admin, _):
        made = await admin.create(new)
    record, shown = made.record, described(made.record)
    if arguments.json:
        wanted = ("prefix", "kind", "subject", "workspace", "scopes", "limits", "created_at", "expires_at")
        created = {"id": record.id, "name": record.name, "token": made.token}
        print_json(created | {name: shown[name] for name in wanted})
    else:
        print(made.token)
        _print_record(record)
        note("The token is shown this once and kept nowhere: copy it now.")
    return DONE


def _lifetime_s(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        lifetime_ms = parse_duration_ms(text)
    except ValueError as exc:
        raise usage_error(f"--expires: {exc}") from exc
    if lifetime_ms < 1000:
        raise usage_error("--expires: at least 1s")
    return lifetime_ms // 1000


def _limits(texts: list[str]) -> dict[str, Limit]:
    limits: dict[str, Limit] = {}
    for text in texts:
        unit, _, limit = text.partition("=")
        if unit in limits:
            raise usage_error(f"--limit: {unit} stands twice")
        try:
            limits[unit] = parse_limit(limit)
        except ValueError as exc:
            raise usage_error(f"--limit {text}: {exc}") from exc
    return limits


async def list_keys(arguments: argparse.Namespace) -> int:
    async with _administer(arguments, signing=False) as (admin, _):
        records = await admin.list()
        now_us = await admin.registry.now_us()
    if arguments.json:
        print_json({"keys": [described(record, now_us) for record in records]})
        return DONE
    rows = [
        (
            record.id,
            record.name,
            record.prefix,
            record.subject if record.subject != record.id else "-",
            record.workspace or "-",
            ",".join(record.scopes) or "-",
            record.state(now_us).value,
            rfc3339(record.created_at_us) or "-",
            rfc3339(record.expires_at_us) or "never",
        )
        for record in records
    ]
    print_table(("ID", "NAME", "PREFIX", "SUBJECT", "WORKSPACE", "SCOPES", "STATE", "CREATED", "EXPIRES"), rows)
    return DONE


async def show(arguments: argparse.Namespace) -> int:
    async with _administer(arguments, signing=False) as (admin, _):
        record = await admin.show(arguments.id)
        now_us = await admin.registry.now_us()
    if arguments.json:
        print_json(described(record, now_us))
    else:
        _print_record(record, now_us)
    return DONE


async def revoke(arguments: argparse.Namespace) -> int:
    named = [name for name in ("id", "subject", "workspace") if getattr(arguments, name)]
    if len(named) != 1:
        raise usage_error("keys revoke takes one of ID, --subject and --workspace")
    if arguments.reason and named != ["id"]:
        raise usage_error("--reason goes with an ID")
    async with _administer(arguments, signing=False) as (admin, configuration):
        if arguments.subject:
            await admin.revoke_subject(arguments.subject)
            told: dict[str, Any] = {"revoked": {"subject": arguments.subject}}
        elif arguments.workspace:
            await admin.revoke_workspace(arguments.workspace)
            told = {"revoked": {"workspace": arguments.workspace}}
        else:
            told = await _revoke_one(admin, configuration, arguments.id, arguments.reason)
    if arguments.json:
        print_json(told)
    else:
        everything = f"everything of {named[0]} {getattr(arguments, named[0])} issued up to now"
        print(f"revoked {arguments.id or everything}")
    return DONE


async def _revoke_one(admin: KeyAdmin, configuration: Configuration, key: str, reason: str) -> dict[str, Any]:
    """A token that has no record (`require_record: false`) is revoked by its `jti`."""
    try:
        return described(await admin.revoke(key, reason), await admin.registry.now_us())
    except NoSuchKeyError:
        ours = key.startswith(("key_", configuration.settings.keys.prefix))
        if configuration.settings.keys.require_record or ours or _is_token(key):
            raise
    await admin.revoke_foreign(key, reason)
    note(f"there is no record of {key!r}: it is revoked as the jti of a token from elsewhere")
    return {"revoked": {"jti": key}}


def described(record: KeyRecord, now_us: int | None = None) -> dict[str, Any]:
    """As users read it; times in RFC 3339."""
    shown: dict[str, Any] = {
        "id": record.id,
        "name": record.name,
        "prefix": record.prefix,
        "kind": record.kind,
        "subject": record.subject,
        "workspace": record.workspace,
        "scopes": list(record.scopes),
        "limits": {unit: format_limit(limit) for unit, limit in record.limits.items()},
        "created_at": rfc3339(record.created_at_us),
        "expires_at": rfc3339(record.expires_at_us),
    }
    if now_us is not None:
        shown["state"] = record.state(now_us).value
        shown["revoked_at"] = rfc3339(record.revoked_at_us)
        shown["revoked_reason"] = record.revoked_reason
    return shown


def _print_record(record: KeyRecord, now_us: int | None = None) -> None:
    shown = described(record, now_us)
    shown["scopes"] = ", ".join(shown["scopes"])
    shown["limits"] = ", ".join(f"{unit} {limit}" for unit, limit in shown["limits"].items()) or "the route's"
    shown["expires_at"] = shown["expires_at"] or "never"
    for name, value in shown.items():
        if value not in {None, ""}:
            print(f"{name:<14} {value}")
