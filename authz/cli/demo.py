"""`authz demo`: the whole stack on this machine, from real parts."""

import argparse
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import Final

from authz.cli.output import DONE, CommandError, note, print_json
from authz.demo.processes import DemoError, of_another_demo
from authz.demo.profiles import PROFILES, Example, variable
from authz.demo.stack import DEFAULT_PORT, Stack, no_such_profile
from authz.demo.tour import SurpriseError, tour_of


_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser("demo", help="the whole stack: Valkey, the sidecar, Envoy, a mock model API")
    demo.add_argument("--profile", metavar="NAME", type=_profile, default="default", help=", ".join(PROFILES))
    demo.add_argument("--port", metavar="N", type=_port, default=DEFAULT_PORT, help="Envoy's; 0: a free one")
    demo.add_argument("--once", action="store_true", help="one tour, then end: 0, or 1 at the first surprise")
    demo.add_argument("--json", action="store_true", help="print one line when everything answers, then stay up")
    demo.set_defaults(command=run)


def _profile(name: str) -> str:
    if name not in PROFILES:
        raise argparse.ArgumentTypeError(no_such_profile(name))
    return name


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    for signum in _SIGNALS:  # SIGINT too: a shell's `&` starts us with it ignored
        signal.signal(signum, _interrupt)
    if theirs := of_another_demo(os.environ):
        note(f"left aside, as another demo has set it in this shell: {', '.join(theirs)}")
    try:
        note("starting Valkey, authz, Envoy and a mock model API …")
        with Stack(arguments.profile, arguments.port) as stack:
            if arguments.once:
                return _tour(stack)
            if arguments.json:
                print_json(stack.describe())
            else:
                print(welcome(stack))
            return _stay(stack)
    except DemoError as exc:
        raise CommandError(str(exc)) from exc
    except KeyboardInterrupt:
        note("\nstopped; nothing was left behind")
        return DONE


def _tour(stack: Stack) -> int:
    print(f"through Envoy on {stack.url}:")
    try:
        tour_of(stack).run()
    except SurpriseError as exc:
        told = stack.processes["authz"].tail()
        raise CommandError(f"surprise: {exc}\nthe sidecar's last words:\n{told}") from exc
    print("as promised")
    return DONE


def _stay(stack: Stack) -> int:
    while True:
        if dead := stack.died():
            raise DemoError(f"{dead.name} has ended:\n{dead.tail()}")
        time.sleep(0.2)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)  # once is enough: cleaning up must not be cut short
    raise KeyboardInterrupt


def welcome(stack: Stack) -> str:
    """Keys, and lines to paste, one by one or as a whole; prose is such that shells may take it for commands."""
    profile = stack.profile
    api = "a mock model API" if profile.name == "default" else f"a mock API as docs/profiles/{profile.name}.md has it"
    tokens = [f"# {profile.tokens_are}:"] if profile.tokens_are else []
    tokens += [f"# {variable(name)}  {token}" for name, token in stack.keys.items() if name not in stack.records]
    steps = [*_requests(stack), *profile.lines, *_managing(stack)]
    return "\n".join(
        [
            f"\n# Envoy protects {api}, on {stack.url}.",
            "# Paste this line into another shell first. It sets the keys below, and what the command authz needs.",
            f". {stack.shell_file}",
            "\n# The keys, one for each scope and more: variable, display prefix, token.",
            *_keys(stack),
            *([f"# {profile.note}"] if profile.note else []),
            *tokens,
            "",
            *(f"# {told}\n{command}" for told, command in steps),
            f"\n# Metrics are on {stack.describe()['metrics']}, logs in {stack.folder}. Ctrl-C ends everything",
        ]
    )


def _keys(stack: Stack) -> list[str]:
    width = max(map(len, stack.records))
    return [
        f"# {variable(name):<{width}}  {record.prefix}  {stack.keys[name]}" for name, record in stack.records.items()
    ]


def _requests(stack: Stack) -> Iterator[tuple[str, str]]:
    """What each shows, and the command."""
    profile, first = stack.profile, stack.profile.examples[0]
    logins = [
        Example(f"{name} logs in", "POST", profile.login, body={"username": name, "password": password})
        for name, password in stack.passwords.items()
    ]
    for example in (*profile.examples, *logins):
        yield f"{example.status}: {example.told}", profile.curl(example, stack.url)
    if stack.certificate is not None:
        yield "200: the first one by TLS", f"{profile.curl(first, stack.url_tls)} --cacert {stack.certificate}"
    asks = profile.curl(replace(first, key="limited"), stack.url).replace(
        "curl -i", "curl -so /dev/null -w '%{http_code} '"
    )
    yield "429 at the sixth, as LIMITED has 5 requests a minute", f"for i in 1 2 3 4 5 6; do {asks}; done; echo"
    (explained,) = (example for example in profile.examples if example.explained)
    yield f"why {explained.status}: {explained.told}. Step by step, and nothing is spent", profile.check(explained)


def _managing(stack: Stack) -> Iterator[tuple[str, str]]:
    profile, first = stack.profile, stack.profile.examples[0]
    used, limited = stack.records[first.key], stack.records["limited"]
    workspace = f" --workspace {profile.workspace}" if profile.workspace else ""
    scopes = "".join(f" --scope {scope}" for scope in profile.limited)
    yield (
        f"what {variable(first.key)} has used, by its display prefix, within a second",
        f"authz keys usage {used.prefix}",
    )
    yield "a key of your own, straight in the store", f"authz keys create --name mine{workspace}{scopes}"
    yield "all keys, by the admin API: docs/managing-keys.md goes on from here", "authz keys list --server $AUTHZ_URL"
    yield "the same by curl", 'curl -s $AUTHZ_URL/authz/v1/keys -H "Authorization: Bearer $ADMIN"; echo'
    yield "LIMITED is revoked", f"authz keys revoke {limited.prefix} --server $AUTHZ_URL"
    yield "401: from its very next request on", profile.curl(replace(first, key="limited"), stack.url)
