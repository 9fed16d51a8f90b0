"""`authz keys`: the life of a key, straight in the store (so the first admin key is made), or by a running sidecar."""

import argparse
import asyncio
import re
import sys
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from authz.admin.keys import MAX_LIFETIME_S, UNITS
from authz.app import SystemClock
from authz.cli.common import add_common, filled, positive, usage_error
from authz.cli.connection import ConflictError, Connection, Json, NotFoundError, add_server, connected
from authz.cli.output import DONE, CommandError, note, print_json, print_table, printable
from authz.core.grouping import By
from authz.core.keyformat import OPAQUE_CHARS
from authz.core.listing import MAX_PAGE
from authz.core.units import parse_duration_ms, rfc3339
from authz.ports import StoreFault


LOG_EVENTS: Final = 50
MAX_ID_CHARS: Final = 64
_OPAQUE_TOKEN: Final = re.compile(rf"[a-z0-9][a-z0-9_-]*[-_][0-9A-Za-z]{{{OPAQUE_CHARS}}}")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T\S+")
_COUNTS: Final = ("requests", "denied", "input_tokens", "output_tokens")
_GROUPED: Final = {"hour": "time", "day": "time", "key": "key_id"}  # what the API's groups call it, if something else
_TITLES: Final = ("ID", "NAME", "PREFIX", "SUBJECT", "WORKSPACE", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST USED")
_HIDDEN: Final = ("token", "warnings")  # told in another place
_NONE: Final = "none"  # a limit that is taken away
_ATTEMPTS: Final = 8  # at limits while others change the same key


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = commands.add_parser("keys", help="create, list, show, update, rotate and revoke keys")
    verbs = keys.add_subparsers(metavar="VERB", required=True, parser_class=type(keys))
    for name, add_options, run, help_ in (
        ("create", _create_options, create, "make a key; its token is shown once"),
        ("list", _list_options, list_keys, "keys, newest first"),
        ("show", _show_options, show, "one key"),
        ("update", _update_options, update, "change a key; in effect from the very next check"),
        ("rotate", _rotate_options, rotate, "give a key a new token; all else of it goes on"),
        ("revoke", _revoke_options, revoke, "refuse a key, or all of somebody's, from now on, for ever"),
        ("usage", _usage_options, usage, "what a key used, or all of them"),
        ("log", _log_options, log, "who changed which key or user, newest first"),
    ):
        verb = verbs.add_parser(name, help=help_)
        add_options(verb)
        add_server(verb)
        add_common(verb)
        verb.set_defaults(command=run)


def _create_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--name", metavar="N", required=True, type=filled, help="for people")
    verb.add_argument("--subject", metavar="S", type=filled, help="whom it speaks for; default: the key's id")
    help_ = "whose it is: an admin key of a workspace manages that workspace's keys alone; default: none"
    verb.add_argument("--workspace", metavar="W", type=filled, help=help_)
    help_ = "what it may; once for each. Those of the configuration, and admin; default: none"
    verb.add_argument("--scope", metavar="S", action="append", dest="scopes", help=help_)
    verb.add_argument("--expires", metavar="90d", type=filled, help="default: never")
    help_ = "its own limit of requests or tokens, in place of the route's; once for each. Default: the route's"
    verb.add_argument("--limit", metavar="requests=60/1m", action="append", dest="limits", help=help_)
    verb.add_argument("--kind", choices=["jwt", "opaque"], help="default: keys.kind of the configuration")
    _add_request_id(verb)


def _add_request_id(verb: argparse.ArgumentParser) -> None:
    help_ = "asked again with the same within ten minutes, the answer is the same, and nothing is done twice"
    verb.add_argument("--request-id", metavar="ID", type=filled, help=help_)


def _list_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--workspace", metavar="W")
    verb.add_argument("--subject", metavar="S")
    verb.add_argument("--state", choices=["active", "expired", "revoked"])
    verb.add_argument("--name", metavar="PREFIX*", help="without the asterisk: exactly this name")
    verb.add_argument("--limit", metavar="N", type=positive, help="at most; default: all")


def _add_id(verb: argparse.ArgumentParser, nargs: str | None = None) -> None:
    verb.add_argument("id", metavar="ID", type=key_id, nargs=nargs, help="the key's id or display prefix")


def _show_options(verb: argparse.ArgumentParser) -> None:
    _add_id(verb)
    verb.add_argument("--show-token", action="store_true", help="its token too, where keys.retain_token has kept it")


def _update_options(verb: argparse.ArgumentParser) -> None:
    _add_id(verb)
    verb.add_argument("--name", metavar="N", type=filled)
    scopes, limits = verb.add_mutually_exclusive_group(), verb.add_mutually_exclusive_group()
    scopes.add_argument("--scope", metavar="S", action="append", dest="scopes", help="in place of those it has")
    scopes.add_argument("--no-scopes", action="store_const", const=[], dest="scopes", help="take all of them away")
    help_ = "its own limit of requests or tokens; tokens=none: the route's again. One that is not named stays"
    limits.add_argument("--limit", metavar="requests=60/1m", action="append", dest="limits", help=help_)
    limits.add_argument("--no-limits", action="store_const", const=[], dest="limits", help="take all its own away")
    verb.add_argument("--expires", metavar="90d|never", type=filled, help="from now on")
    verb.add_argument("--etag", metavar="E", type=filled, help="only if nobody changed the key since it was shown so")


def _rotate_options(verb: argparse.ArgumentParser) -> None:
    _add_id(verb)
    help_ = "how long earlier tokens still live; default: 0s, they end at once"
    verb.add_argument("--grace", metavar="24h", type=filled, help=help_)
    _add_request_id(verb)


def _revoke_options(verb: argparse.ArgumentParser) -> None:
    _add_id(verb, "?")
    verb.add_argument("--subject", metavar="S", type=filled, help="everything of this subject issued up to now")
    verb.add_argument("--workspace", metavar="W", type=filled, help="everything of this workspace issued up to now")
    verb.add_argument("--issued-before", metavar="RFC3339", type=filled, help="issued up to then; alone: everybody's")
    verb.add_argument("--dry-run", action="store_true", help="tell how many keys that covers; revoke nothing")
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.add_argument("--reason", metavar="R", help="kept with the key, or with the event")


def _usage_options(verb: argparse.ArgumentParser) -> None:
    _add_id(verb, "?")
    help_ = "a time (RFC 3339), a date, or how long ago: 24h, 7d; default: the beginning"
    verb.add_argument("--since", metavar="T", type=filled, help=help_)
    verb.add_argument("--until", metavar="T", type=filled, help="likewise; default: now")
    verb.add_argument(
        "--by", choices=[one.value for one in By], action="append", help="of all keys: what to group by; default: model"
    )
    verb.add_argument("--workspace", metavar="W", help="of this workspace's keys alone")
    verb.add_argument("--subject", metavar="S", help="of this subject's keys alone")


def _log_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--workspace", metavar="W")
    verb.add_argument("--key", metavar="ID", type=key_id, help="the id of a key or user")
    verb.add_argument("--actor", metavar="A", help="the id of a key or user; cli: the command line")
    verb.add_argument("--action", metavar="A", help="create, update, rotate, revoke, revoke_all, user_add …")
    verb.add_argument("--limit", metavar="N", type=positive, default=LOG_EVENTS, help=f"default: {LOG_EVENTS}")


def key_id(text: str) -> str:
    """A token that is given for an id is not repeated, and sent nowhere. Raises: argparse.ArgumentTypeError."""
    if len(text) > MAX_ID_CHARS or "eyJ" in text or _OPAQUE_TOKEN.fullmatch(text):
        told = "that is a token: give the key's id or display prefix ('authz keys list' has them)"
        raise argparse.ArgumentTypeError(told)
    return filled(text)


@contextmanager
def _about(key: str) -> Generator[None]:
    try:
        yield
    except NotFoundError as exc:
        told = f"there is no key {key!r}: give its id (key_…) or display prefix ('authz keys list' has both)"
        raise CommandError(told) from exc


async def create(arguments: argparse.Namespace) -> int:
    values = {
        "name": arguments.name,
        "subject": arguments.subject,
        "workspace": arguments.workspace,
        "scopes": arguments.scopes,
        "limits": _limits(arguments.limits),
        "kind": arguments.kind,
        "expires_in": arguments.expires,
        "request_id": arguments.request_id,
    }
    async with connected(arguments, with_secrets=True) as connection:
        made = await connection.call("CreateKey", values)
    return _tell_token(arguments, connection, made)


def _limits(texts: Sequence[str] | None) -> dict[str, str] | None:
    if texts is None:
        return None
    limits: dict[str, str] = {}
    for text in texts:
        unit, equals, limit = text.partition("=")
        if not unit or not equals:
            raise usage_error("--limit takes unit=capacity/period, such as requests=60/1m")
        if unit in limits:
            raise usage_error(f"--limit: {unit} stands twice")
        limits[unit] = limit
    return limits


def _tell_token(arguments: argparse.Namespace, connection: Connection, made: Json) -> int:
    if arguments.json:
        print_json(made)
        return DONE
    print(printable(made["token"]))
    _print_key(made)
    if connection.keeps_tokens is None:
        note("Unless the server retains tokens, the token is shown this once: copy it now.")
    elif not connection.keeps_tokens:
        note("The token is shown this once and kept nowhere: copy it now.")
    return DONE


async def list_keys(arguments: argparse.Namespace) -> int:
    wanted = _filter(
        workspace=arguments.workspace, subject=arguments.subject, state=arguments.state, name=arguments.name
    )
    async with connected(arguments) as connection:
        keys = await _pages(connection, "ListKeys", "keys", wanted, arguments.limit)
    if arguments.json:
        print_json({"keys": keys})
    else:
        print_table(_TITLES, [_row(key) for key in keys])
    return DONE


def _filter(**conditions: str | None) -> str:
    return " AND ".join(f"{name} = {_quoted(value)}" for name, value in conditions.items() if value is not None)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


async def _pages(connection: Connection, method: str, member: str, wanted: str, limit: int | None) -> list[Json]:
    """The members of all pages, at most *limit* of them."""
    found: list[Json] = []
    token = ""
    while True:
        size = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(found))
        page = await connection.call(method, {"page_size": size, "page_token": token, "filter": wanted})
        found += page[member]
        before, token = token, page["next_page_token"]
        if token and token == before:
            raise CommandError("the server's pages do not end: it gave the same page token twice")
        if not token or (limit is not None and len(found) >= limit):
            return found[:limit]


def _row(key: Json) -> tuple[str, ...]:
    return (
        key["id"],
        key["name"],
        key["prefix"],
        key["subject"] if key["subject"] != key["id"] else "-",
        key["workspace"] or "-",
        ",".join(key["scopes"]) or "-",
        key["state"],
        key["created_at"] or "-",
        key["expires_at"] or "never",
        key["last_used_at"] or "-",
    )


async def show(arguments: argparse.Namespace) -> int:
    async with connected(arguments, with_secrets=arguments.show_token) as connection:
        with _about(arguments.id):
            key = await connection.call("GetKey", {"id": arguments.id, "show_token": arguments.show_token})
    if arguments.json:
        print_json(key)
        return DONE
    if "token" in key:
        print(printable(key["token"]))
    _print_key(key)
    return DONE


async def update(arguments: argparse.Namespace) -> int:
    changes = _changes(arguments)
    async with connected(arguments) as connection:
        with _about(arguments.id):
            before, key = await _updated(connection, arguments, changes)
    if arguments.json:
        print_json(key)
    else:
        _print_key(key)
    if "expires_at" in changes and _outlives_its_token(before, key):
        note("The key's token keeps the end that it was issued with: 'authz keys rotate' makes one with the new end.")
    return DONE


async def _updated(connection: Connection, arguments: argparse.Namespace, changes: Json) -> tuple[Json, Json]:
    """
    The key before and after. Limits that are not named stay, and the API takes limits as a whole: so they are written
    against the version that was read, and merged anew where somebody else was quicker.
    """
    before = await connection.call("GetKey", {"id": arguments.id})
    for _ in range(_ATTEMPTS):
        values = {"id": arguments.id, "etag": arguments.etag, **changes}
        if changes.get("limits"):
            merged = {**before["limits"], **changes["limits"]}
            values["limits"] = {unit: limit for unit, limit in merged.items() if limit != _NONE}
            values["etag"] = arguments.etag or before["etag"]
        try:
            return before, await connection.call("UpdateKey", {"key": values, "update_mask": ",".join(changes)})
        except ConflictError:
            if arguments.etag is not None:
                raise
            read, before = before, await connection.call("GetKey", {"id": arguments.id})
            if before["etag"] == read["etag"]:
                raise  # nobody was quicker: the key is revoked, say
    raise CommandError("others keep changing the key: try again")


def _changes(arguments: argparse.Namespace) -> Json:
    """Field by field, as the API has them."""
    limits = _limits(arguments.limits)
    if any(limit == _NONE and unit not in UNITS for unit, limit in (limits or {}).items()):
        raise usage_error(f"--limit: unknown unit; known: {', '.join(UNITS)}")
    changes: Json = {"name": arguments.name, "scopes": arguments.scopes, "limits": limits}
    changes = {name: value for name, value in changes.items() if value is not None}
    if arguments.expires is not None:
        changes["expires_at"] = None if arguments.expires == "never" else _from_now(arguments.expires)
    if not changes:
        raise usage_error("say what to change: --name, --scope, --no-scopes, --limit, --no-limits or --expires")
    return changes


def _from_now(text: str) -> str:
    """Whole seconds: rounded up, so that the key never ends early."""
    try:
        lifetime_ms = parse_duration_ms(text)
    except ValueError as exc:
        raise usage_error(f"--expires: {exc}; or 'never'") from exc
    if lifetime_ms > MAX_LIFETIME_S * 1000:
        raise usage_error("--expires: must be at most 100 years")
    ends_s = -int(-(SystemClock().now_s() + lifetime_ms / 1000) // 1)
    return rfc3339(ends_s * 1_000_000) or ""


def _outlives_its_token(before: Json, after: Json) -> bool:
    old, new = before["expires_at"], after["expires_at"]
    return after["kind"] == "jwt" and old is not None and (new is None or new > old)


async def rotate(arguments: argparse.Namespace) -> int:
    values = {"id": arguments.id, "grace": arguments.grace, "request_id": arguments.request_id}
    async with connected(arguments, with_secrets=True) as connection:
        with _about(arguments.id):
            made = await connection.call("RotateKey", values)
        status = _tell_token(arguments, connection, made)  # first of all: it is shown this once
        note(await _told_of_earlier(connection, made["id"], arguments.grace))
    return status


async def _told_of_earlier(connection: Connection, key: str, grace: str | None) -> str:
    """When the tokens before the newest end. Whatever fails here, the key is rotated."""
    if grace is None:
        return "Earlier tokens of the key are refused from now on; --grace 24h would let them live on."
    try:
        rotations = (await connection.call("GetKey", {"id": key}))["rotations"]
    except (CommandError, StoreFault):
        return f"Earlier tokens of the key are good for {grace} at most."
    ends = [one["ends_at"] for one in rotations if one["ends_at"]]
    return f"Earlier tokens of the key are {f'good until {max(ends)}' if ends else 'refused from now on'}."


def revoke(arguments: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """What is asked is asked before an event loop runs: it would keep Ctrl-C from ending the question."""
    given = [name for name in ("id", "subject", "workspace") if getattr(arguments, name) is not None]
    until = arguments.issued_before is not None
    if len(given) > 1 or not (given or until):
        raise usage_error("keys revoke takes one of ID, --subject and --workspace, or --issued-before for everybody's")
    if given == ["id"]:
        if arguments.dry_run or until:
            raise usage_error("--dry-run and --issued-before do not go with an ID")
        return _revoke_one(arguments)
    if not arguments.dry_run and not arguments.yes:
        _confirm(arguments)
    return _revoke_all(arguments)


async def _revoke_one(arguments: argparse.Namespace) -> int:
    async with connected(arguments) as connection:
        with _about(arguments.id):
            key = await connection.call("RevokeKey", {"id": arguments.id, "reason": arguments.reason})
    if arguments.json:
        print_json(key)
    else:
        print(f"revoked {printable(key['id'])}")
    return _warned(key)


async def _revoke_all(arguments: argparse.Namespace) -> int:
    told = await _call_revoke_all(arguments, dry_run=arguments.dry_run)
    if arguments.json:
        print_json(told)
    else:
        print(f"{'would revoke' if arguments.dry_run else 'revoked'} {_whose(arguments)}: {_count(told)}")
    return _warned(told)


async def _call_revoke_all(arguments: argparse.Namespace, *, dry_run: bool) -> Json:
    values = {
        "subject": arguments.subject,
        "workspace": arguments.workspace,
        "issued_before": arguments.issued_before,
        "dry_run": dry_run,
        "reason": arguments.reason,
    }
    async with connected(arguments) as connection:
        return await connection.call("RevokeAllKeys", values)


def _whose(arguments: argparse.Namespace) -> str:
    whose = ""
    for kind in ("subject", "workspace"):
        if (name := getattr(arguments, kind)) is not None:
            whose = f" of {kind} {printable(name)}"
    return f"everything{whose} issued up to {arguments.issued_before or 'now'}"


def _count(told: Json) -> str:
    return f"{told['revoked']} key{'s' if told['revoked'] != 1 else ''}"


def _confirm(arguments: argparse.Namespace) -> None:
    """Raises: CommandError — nobody is there to say yes, or says it not."""
    if not sys.stdin.isatty():
        raise usage_error(f"to revoke {_whose(arguments)}, say --yes (--dry-run tells what that covers)")
    covered = asyncio.run(_call_revoke_all(arguments, dry_run=True))
    word = arguments.subject or arguments.workspace or "everything"
    _warned(covered)
    note(f"This revokes {_whose(arguments)}: {_count(covered)}. Nothing brings a revoked key back.")
    print(f"Type {printable(word)} to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().rstrip("\n") != word:
        raise CommandError("nothing was revoked")


def _warned(told: Json) -> int:
    for warning in told["warnings"]:
        note(f"authz: {printable(warning)}")
    return DONE


async def usage(arguments: argparse.Namespace) -> int:
    span = {"start_time": _moment("--since", arguments.since), "end_time": _moment("--until", arguments.until)}
    if arguments.id is None:
        return await _usage_of_all(arguments, span)
    if any(given is not None for given in (arguments.by, arguments.workspace, arguments.subject)):
        raise usage_error("--by, --workspace and --subject do not go with an ID")
    async with connected(arguments) as connection:
        with _about(arguments.id):
            told = await connection.call("GetKeyUsage", {"id": arguments.id, **span})
    if arguments.json:
        print_json(told)
        return DONE
    _print_totals({name: told.get(name) for name in ("id", "start_time", "end_time", *_COUNTS, "last_used_at")})
    counts = ("requests", "input_tokens", "output_tokens")
    _print_counts(("model",), counts, [{"model": name, **used} for name, used in told["by_model"].items()])
    return DONE


async def _usage_of_all(arguments: argparse.Namespace, span: Mapping[str, str | None]) -> int:
    by = arguments.by or [By.MODEL.value]
    values = {**span, "group_by": by, "filter": _filter(workspace=arguments.workspace, subject=arguments.subject)}
    async with connected(arguments) as connection:
        told = await connection.call("GetUsage", values)
    if arguments.json:
        print_json(told)
        return DONE
    _print_totals({name: told[name] for name in ("start_time", "end_time", *_COUNTS)})
    _print_counts([_GROUPED.get(name, name) for name in by], _COUNTS, told["groups"])
    return DONE


def _moment(option: str, text: str | None) -> str | None:
    """As the API takes it."""
    if text is None or _TIME.fullmatch(text):
        return text
    if _DATE.fullmatch(text):
        return f"{text}T00:00:00Z"
    try:
        at_s = SystemClock().now_s() - parse_duration_ms(text) / 1000
    except ValueError as exc:
        told = f"{option} takes a time such as 2026-05-20T10:00:00Z, a date, or how long ago, such as 24h or 7d"
        raise usage_error(told) from exc
    if at_s < 0:
        raise usage_error(f"{option} lies before 1970")
    return rfc3339(int(at_s * 1_000_000))


def _print_totals(told: Json) -> None:
    for name, value in told.items():
        if value is not None:
            print(f"{name:<14} {printable(_text(value))}")


def _print_counts(names: Sequence[str], counts: Sequence[str], rows: Sequence[Json]) -> None:
    if rows:
        print()
        titles = [name.replace("_", " ").upper() for name in (*names, *counts)]
        print_table(titles, [[str(row[name]) or "-" for name in (*names, *counts)] for row in rows])


async def log(arguments: argparse.Namespace) -> int:
    wanted = _filter(
        workspace=arguments.workspace, key_id=arguments.key, actor=arguments.actor, action=arguments.action
    )
    async with connected(arguments) as connection:
        events = await _pages(connection, "ListEvents", "events", wanted, arguments.limit)
    if arguments.json:
        print_json({"events": events})
        return DONE
    rows = [
        (one["at"] or "-", one["actor"], one["action"], one["key_id"] or "-", one["workspace"] or "-", _difference(one))
        for one in events
    ]
    print_table(("TIME", "ACTOR", "ACTION", "KEY OR USER", "WORKSPACE", "CHANGES"), rows)
    return DONE


def _difference(event: Json) -> str:
    before, after = event["before"] or {}, event["after"] or {}
    return "; ".join(_changed(name, before, after) for name in {**before, **after})


def _changed(name: str, before: Mapping[str, object], after: Mapping[str, object]) -> str:
    told = [_text(side[name]) or "none" for side in (before, after) if name in side]
    return f"{name} {' → '.join(told)}"


def _text(value: object) -> str:
    """One value of the API's JSON, for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return "" if value is None else str(value)


def _print_key(key: Json) -> None:
    for name, value in _fields(key):
        if value:
            print(f"{name:<14} {printable(value)}")


def _fields(key: Json) -> Iterator[tuple[str, str]]:
    empty: Mapping[str, str] = {"limits": "the route's", "expires_at": "never"}
    for name, value in key.items():
        if name == "rotations":
            yield name, ", ".join(_rotation(one) for one in value if len(value) > 1)
        elif name not in _HIDDEN:
            yield name, _text(value) or empty.get(name, "")


def _rotation(one: Json) -> str:
    return f"{one['number']} until {one['ends_at']}" if one["ends_at"] else f"{one['number']} current"
