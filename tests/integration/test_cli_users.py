"""`authz users`: who may log in, and passwords typed on a real terminal."""

from pathlib import Path

import pytest

from tests.integration.test_cli import Here, Shell


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
