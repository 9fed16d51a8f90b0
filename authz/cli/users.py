"""`authz users`: people who may log in; always straight in the store, and without any secret."""

import argparse
import getpass
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from authz.adapters.logs.silent import Silent
from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import KeyRequestError
from authz.admin.users import (
    MAX_PASSWORD_BYTES,
    NewUser,
    NoSuchUserError,
    UnfinishedRemovalError,
    UserAdmin,
    UserExistsError,
)
from authz.app import user_admin
from authz.cli.common import add_common, command_store, filled, load, usage_error
from authz.cli.output import DONE, CommandError, note, print_json, print_table, printable
from authz.core.keyrecord import KeyRecord
from authz.core.units import rfc3339
from authz.ports import BeingRemovedError, StoreFault
from authz.settings import Configuration


OWNERLESS: Final = "inferno"  # the portal whose keys have no subject but themselves
_MAX_LINE: Final = 4 * MAX_PASSWORD_BYTES


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    users = commands.add_parser("users", help="people who may log in")
    verbs = users.add_subparsers(metavar="VERB", required=True, parser_class=type(users))
    add_ = verbs.add_parser("add", help="let somebody log in")
    _add_name(add_)
    add_.add_argument("--scope", metavar="S", action="append", default=[], dest="scopes", help="of their sessions")
    add_.add_argument("--workspace", metavar="W", type=filled, help="that they are bound to")
    passwd_ = verbs.add_parser("passwd", help="set a password; ends the user's sessions")
    _add_name(passwd_)
    for verb in (add_, passwd_):
        verb.add_argument("--password-stdin", action="store_true", help="one line of stdin; else it is asked for")
    list_ = verbs.add_parser("list", help="everybody, by name")
    remove_ = verbs.add_parser("remove", help="log somebody out for good and revoke their keys; the name is free again")
    _add_name(remove_)
    for verb, run in ((add_, add), (passwd_, passwd), (list_, list_users), (remove_, remove)):
        add_common(verb, json=verb in {add_, list_})
        verb.set_defaults(command=run)


def _add_name(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", metavar="NAME", help="what they log in with")


@asynccontextmanager
async def _administer(
    arguments: argparse.Namespace, configuration: Configuration | None = None
) -> AsyncGenerator[UserAdmin]:
    configuration = configuration or load(arguments, with_secrets=False)
    async with command_store(configuration) as store:
        try:
            yield user_admin(configuration, store, Silent())
        except KeyRequestError as exc:
            raise usage_error(str(exc)) from exc
        except UserExistsError as exc:
            told = f"there is a user {arguments.name!r} already: 'authz users passwd' sets another password"
            raise CommandError(told) from exc
        except NoSuchUserError as exc:
            raise CommandError(f"there is no user {arguments.name!r}") from exc
        except BeingRemovedError as exc:
            told = f"the removal of a former user {arguments.name!r} is not finished"
            raise CommandError(f"{told}: 'authz users remove' with that name finishes it") from exc
        except UnfinishedRemovalError as exc:
            told = f"the removal of {arguments.name!r} was cut short ({exc}): sessions or keys of theirs may still work"
            raise CommandError(f"{told}; run the same command again: nobody gets the name until it is done") from exc


def add(arguments: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """The password is asked for before an event loop runs: it would keep Ctrl-C from ending the question."""
    return _add(arguments, _password(arguments))


async def _add(arguments: argparse.Namespace, password: str) -> int:
    new = NewUser(arguments.name, arguments.workspace or "", tuple(arguments.scopes))
    async with _administer(arguments) as admin:
        made = await admin.add(new, password, COMMAND_LINE)
        if arguments.json:
            print_json(described(made))
        else:
            print(f"{printable(made.name)} may log in, with {_scopes(made)} ({made.id})")
        await _tell_of_keys(admin, made)
    return DONE


async def _tell_of_keys(admin: UserAdmin, made: KeyRecord) -> None:
    """The user is made, so nothing that fails here fails the command."""
    try:
        living, is_all = await admin.living_keys(made)
    except StoreFault as fault:
        note(f"authz: whether the user has keys already could not be looked up: {fault}")
        return
    name = printable(made.name)
    if living:
        count = f"{'is' if living == 1 else 'are'} {'' if is_all else 'at least '}{_keys(living, 'living key')}"
        note(f"authz: there {count} of the subject {name}, made before: a portal shows them to the user as their own")
    elif not is_all:
        told = f"there are too many keys to look through them all for some of the subject {name}, made before"
        note(f"authz: {told}: 'authz keys list --subject' does")


def _keys(count: int, kind: str = "key") -> str:
    return f"{count} {kind}{'s' if count != 1 else ''}"


def _scopes(user: KeyRecord) -> str:
    if not user.scopes:
        return "no scopes"
    return f"the scope{'s' if len(user.scopes) > 1 else ''} {', '.join(user.scopes)}"


def passwd(arguments: argparse.Namespace) -> Coroutine[Any, Any, int]:
    return _passwd(arguments, _password(arguments))


async def _passwd(arguments: argparse.Namespace, password: str) -> int:
    async with _administer(arguments) as admin:
        changed = await admin.set_password(arguments.name, password, COMMAND_LINE)
    print(f"the password of {printable(changed.name)} is set, and every session of before has ended")
    return DONE


async def list_users(arguments: argparse.Namespace) -> int:
    async with _administer(arguments) as admin:
        users = await admin.all()
    if arguments.json:
        print_json({"users": [described(user) for user in users]})
        return DONE
    rows = [
        (user.name, user.workspace or "-", ",".join(user.scopes) or "-", rfc3339(user.created_at_us) or "-", user.id)
        for user in users
    ]
    print_table(("NAME", "WORKSPACE", "SCOPES", "CREATED", "ID"), rows)
    return DONE


async def remove(arguments: argparse.Namespace) -> int:
    configuration = load(arguments, with_secrets=False)
    async with _administer(arguments, configuration) as admin:
        removed = await admin.remove(arguments.name, COMMAND_LINE)
    print(f"{printable(removed.user.name)} is removed, and every session has ended")
    if removed.keys:
        print(f"revoked with them: {_keys(removed.keys)}")
    if OWNERLESS in configuration.settings.portals:
        made = f"keys that they made in the portal {OWNERLESS} speak for themselves and live on"
        note(f"authz: {made}: 'authz keys log --actor {removed.user.id} --action create' names the latest")
    for warning in removed.warnings:
        note(f"authz: {printable(warning)}")
    return DONE


def described(user: KeyRecord) -> dict[str, object]:
    """As users of the command read it: never a password or its hash."""
    return {
        "id": user.id,
        "name": user.name,
        "workspace": user.workspace,
        "scopes": list(user.scopes),
        "created_at": rfc3339(user.created_at_us),
    }


def _password(arguments: argparse.Namespace) -> str:
    """Raises: CommandError."""
    if arguments.password_stdin:
        return _line_of_stdin()
    if not sys.stdin.isatty():
        raise usage_error("there is no terminal to ask for the password on: --password-stdin reads it from stdin")
    try:
        password = getpass.getpass(f"Password for {printable(arguments.name)}: ")
        again = getpass.getpass("The same again: ")
    except EOFError as exc:
        raise CommandError("no password was given") from exc
    if password != again:
        raise CommandError("the two passwords differ: nothing was changed")
    return password


def _line_of_stdin() -> str:
    """Without its end. Raises: CommandError."""
    line = sys.stdin.buffer.readline(_MAX_LINE).removesuffix(b"\n").removesuffix(b"\r")
    try:
        password = line.decode()
    except UnicodeDecodeError as exc:
        raise usage_error("the password is not UTF-8") from exc
    if not password:
        raise usage_error("--password-stdin: there is no password on stdin")
    return password
