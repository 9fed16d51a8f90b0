"""`authz users`: who may log in, and passwords typed on a real terminal."""

import json
from pathlib import Path

import pytest

from authz.admin.keys import KeyAdmin
from authz.ports import StoreFault
from tests.integration.test_cli import Here, Shell
from tests.support.parts import SECRET


PASSWORD = "correct horse battery"


@pytest.fixture
def shell(tmp_path: Path, valkey_url: str) -> Shell:
    """Without any secret: none is needed."""
    made = Shell(tmp_path, valkey_url)
    for name in ("AUTHZ_JWT_SECRET", "AUTHZ_PEPPER"):
        del made.environ[name]
    return made


@pytest.fixture
def here(shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(shell, monkeypatch, capsys)


def names(shell: Shell | Here) -> list[str]:
    return [user["name"] for user in shell.data("users", "list")["users"]]


def test_from_first_to_last(here: Here) -> None:
    add = ("users", "add", "ada", "--scope", "admin", "--workspace", "acme", "--password-stdin")

    added = here.run(*add, stdin=f"{PASSWORD}\n")
    assert (added.status, added.out.startswith("ada may log in, with the scope admin")) == (0, True)
    again = here.run(*add, stdin=f"{PASSWORD}\n")
    assert (again.status, "there is a user 'ada' already" in again.err) == (1, True)
    [ada] = here.data("users", "list")["users"]
    assert list(ada) == ["id", "name", "workspace", "scopes", "created_at"]
    assert (ada["name"], ada["workspace"], ada["scopes"]) == ("ada", "acme", ["admin"])
    assert here.run("users", "list").out.splitlines()[1].split()[:3] == ["ada", "acme", "admin"]
    assert here.run("users", "passwd", "ada", "--password-stdin", stdin="another one\n").status == 0
    assert here.run("users", "remove", "ada").out == "ada is removed, and every session has ended\n"
    assert names(here) == []
    assert here.data("keys", "list")["keys"] == []
    actions = [event["action"] for event in here.data("keys", "log")["events"]]
    assert actions == ["user_remove", "user_passwd", "user_add"]


@pytest.mark.parametrize("place", [(), ("--workspace", "acme")], ids=["in no workspace", "in a workspace"])
def test_whose_keys_a_user_has(here: Here, place: tuple[str, ...]) -> None:
    """A new one is told of, and a removed one takes them along; of no others is a word said."""
    here.patch.setenv("AUTHZ_JWT_SECRET", SECRET)
    add = ("users", "add", "ada", *place, "--password-stdin", "--json")
    create = ("keys", "create", "--name", "test", "--subject", "ada")
    theirs = [here.data(*create, *place)["id"]]
    other = here.data(*create, "--workspace", "umbrella")["id"]

    one = here.run(*add, stdin=PASSWORD)
    assert (one.status, json.loads(one.out)["name"]) == (0, "ada")
    assert one.err == (
        "authz: there is 1 living key of the subject ada, made before: a portal shows them to the user as their own\n"
    )
    theirs.append(here.data(*create, *place)["id"])

    removed = here.run("users", "remove", "ada")
    assert (removed.status, removed.err) == (0, "")
    assert removed.out == "ada is removed, and every session has ended\nrevoked with them: 2 keys\n"
    states = {key["id"]: (key["state"], key["revoked_reason"]) for key in here.data("keys", "list")["keys"]}
    assert states == {**dict.fromkeys(theirs, ("revoked", "the user was removed")), other: ("active", "")}
    [all_keys] = here.data("keys", "log", "--action", "revoke_all")["events"]
    assert all_keys["after"]["revoked"] == 2
    logged = here.run("keys", "log", "--limit", "2").out
    assert f"keys {', '.join(all_keys['after']['keys'])}; reason the user was removed; revoked 2; subject ada" in logged
    assert here.run(*add, stdin=PASSWORD).err == ""


def test_a_removal_that_is_cut_short_says_what_to_do(here: Here) -> None:
    """And a count that fails does not fail the command whose work is done."""

    async def away(*_: object) -> int:
        raise StoreFault("the store is away")

    here.run("users", "add", "ada", "--password-stdin", stdin=PASSWORD)
    with here.patch.context() as patch:
        patch.setattr(KeyAdmin, "revoke_removed", away)
        patch.setattr(KeyAdmin, "count_living", away)
        removed = here.run("users", "remove", "ada")
        added = here.run("users", "add", "eve", "--password-stdin", stdin=PASSWORD)
    again = here.run("users", "add", "ada", "--password-stdin", stdin=PASSWORD)

    assert (removed.status, removed.out) == (1, "")
    assert removed.err == (
        "authz: the removal of 'ada' was cut short (the store is away): sessions or keys of theirs may still work; run"
        " the same command again: nobody gets the name until it is done\n"
    )
    assert (again.status, again.out) == (1, "")
    assert again.err == (
        "authz: the removal of a former user 'ada' is not finished: 'authz users remove' with that name finishes it\n"
    )
    assert (added.status, added.out.startswith("eve may log in")) == (0, True)
    assert added.err == "authz: whether the user has keys already could not be looked up: the store is away\n"
    here.patch.setenv("AUTHZ_JWT_SECRET", SECRET)
    created = here.run("keys", "create", "--name", "test", "--subject", "ada")
    assert (created.status, "is being removed: no keys are made until" in created.err) == (1, True)
    assert here.run("users", "remove", "ada").status == 0
    assert here.run("users", "add", "ada", "--password-stdin", stdin=PASSWORD).status == 0


def test_a_count_that_is_not_to_the_end_says_so(here: Here) -> None:
    here.patch.setenv("AUTHZ_JWT_SECRET", SECRET)
    add = ("users", "add", "ada", "--password-stdin")
    for _ in range(3):
        here.run("keys", "create", "--name", "test", "--subject", "ada")
    with here.patch.context() as patch:
        patch.setattr("authz.admin.keys._PAGE", 1)
        added = here.run(*add, stdin=PASSWORD)
    assert added.err == (
        "authz: there are at least 2 living keys of the subject ada, made before: a portal shows them to the user as"
        " their own\n"
    )

    here.run("users", "remove", "ada")
    with here.patch.context() as patch:
        patch.setattr("authz.adapters.redis.registry.SCAN", 1)
        added = here.run(*add, stdin=PASSWORD)
    assert added.err == (
        "authz: there are too many keys to look through them all for some of the subject ada, made before: 'authz keys"
        " list --subject' does\n"
    )


def test_keys_of_inferno_are_told_to_live_on(here: Here) -> None:
    """They have no subject but themselves, so nothing finds them by the user's name."""
    told = []
    for portals in ("[vinfer, inferno]", "[vinfer]"):
        scopes = "{admin: [], manage_users: [], read-only: [], read-write: []}"
        (here.shell.folder / "authz.yaml").write_text(f"portals: {portals}\nscopes: {scopes}\n")
        here.run("users", "add", "ada", "--password-stdin", stdin=PASSWORD)
        [ada] = here.data("users", "list")["users"]
        removed = here.run("users", "remove", "ada")
        assert (removed.status, removed.out) == (0, "ada is removed, and every session has ended\n")
        told.append(removed.err.replace(ada["id"], "ID"))
    note = "authz: keys that they made in the portal inferno speak for themselves and live on: 'authz keys log --actor"
    assert told == [f"{note} ID --action create' names the latest\n", ""]


def test_add_prints_json_without_a_password(shell: Shell) -> None:
    added = shell.run("users", "add", "ada", "--password-stdin", "--json", stdin=PASSWORD)

    assert added.stdout.startswith('{"id": "usr_')
    assert PASSWORD not in added.stdout + added.stderr


@pytest.mark.parametrize("verb", ["add", "passwd"])
def test_a_password_is_typed_twice_and_not_shown(shell: Shell, verb: str) -> None:
    if verb == "passwd":
        shell.run("users", "add", "ada", "--password-stdin", stdin="the one before\n")
    typed = [("Password for ada: ", f"{PASSWORD}\n"), ("The same again: ", f"{PASSWORD}\n")]

    status, shown = shell.on_terminal("users", verb, "ada", typed=typed)

    assert (status, PASSWORD in shown) == (0, False)
    assert names(shell) == ["ada"]


def test_two_passwords_that_differ_and_none_at_all(shell: Shell) -> None:
    differing = [("Password for ada: ", f"{PASSWORD}\n"), ("The same again: ", "another\n")]

    status, shown = shell.on_terminal("users", "add", "ada", typed=differing)
    assert (status, "differ" in shown) == (1, True)
    status, shown = shell.on_terminal("users", "add", "ada", typed=[("Password for ada: ", "\x04")])
    assert (status, "no password was given" in shown) == (1, True)
    status, shown = shell.on_terminal("users", "add", "ada", typed=[("Password for ada: ", "\x03")])
    assert (status, "Traceback" in shown) == (130, False)
    told = shell.run("users", "list").stderr
    assert "the store has never held a key" in told


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "told"),
    [
        pytest.param(("add", "ada"), PASSWORD, 2, "--password-stdin", id="no terminal"),
        pytest.param(("add", "ada", "--password-stdin"), "", 2, "no password on stdin", id="no password"),
        pytest.param(("add", "ada", "--password-stdin"), "\nlater line\n", 2, "no password on stdin", id="empty line"),
        pytest.param(("add", "ada", "--password-stdin"), "1234567\n", 2, "8 to 1024", id="short"),
        pytest.param(("add", "ada", "--password-stdin"), "x" * 5000, 2, "8 to 1024", id="long"),
        pytest.param(("add", " ada", "--password-stdin"), PASSWORD, 2, "printable", id="name"),
        pytest.param(("add", "ada", "--password-stdin", "--scope", "root"), PASSWORD, 2, "unknown scope", id="scope"),
        pytest.param(("add", "ada", "--password-stdin", "--workspace", ""), PASSWORD, 2, "not be empty", id="unset"),
        pytest.param(("passwd", "nobody", "--password-stdin"), PASSWORD, 1, "there is no user 'nobody'", id="passwd"),
        pytest.param(("remove", "nobody"), "", 1, "there is no user 'nobody'", id="remove"),
        pytest.param(("remove",), "", 2, "NAME", id="whom"),
    ],
)
def test_faults_are_one_sentence(here: Here, arguments: tuple[str, ...], stdin: str, status: int, told: str) -> None:
    here.run("users", "add", "first", "--password-stdin", stdin=PASSWORD)

    ended = here.run("users", *arguments, stdin=stdin)

    assert (ended.status, ended.out, told in ended.err) == (status, "", True)
    assert PASSWORD not in ended.err
    assert names(here) == ["first"]
