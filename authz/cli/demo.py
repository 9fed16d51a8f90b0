"""`authz demo`: the whole stack on this machine, from real parts."""

import argparse
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from authz.cli.output import DONE, CommandError, note, print_json
from authz.demo.processes import DemoError
from authz.demo.profiles import PROFILES
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
    try:
        note("starting Valkey, authz, Envoy and a mock model API …")
        with Stack(arguments.profile, arguments.port) as stack:
            if arguments.once:
                return _tour(stack)
            if arguments.json:
                print_json(stack.describe())
            else:
                print(profile_welcome(stack) if stack.profile.examples else welcome(stack))
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
    """Keys, and lines to paste."""
    keys = "\n".join(f"export {variable(name)}={token}" for name, token in stack.keys.items())
    chat = '{"model":"mock-chat","messages":[{"role":"user","content":"Hello!"}]}'
    stream = chat[:-1] + ',"stream":true,"stream_options":{"include_usage":true}}'
    json_type = "-H 'Content-Type: application/json'"
    return f"""
Envoy protects a mock model API on {stack.url}. One key for each scope, and one with 5 requests a minute:

{keys}

# allowed; look at the X-RateLimit headers
curl -i {stack.url}/v1/chat/completions -H "Authorization: Bearer $READ_WRITE" {json_type} -d '{chat}'
# the same, streamed
curl -N {stack.url}/v1/chat/completions -H "Authorization: Bearer $READ_WRITE" {json_type} -d '{stream}'
# 401: no key
curl -i {stack.url}/v1/models
# 403: a read-only key may not write
curl -i {stack.url}/v1/chat/completions -H "Authorization: Bearer $READ_ONLY" {json_type} -d '{chat}'
# 429 at the sixth
for i in 1 2 3 4 5 6; do curl -so /dev/null -w '%{{http_code}} ' {stack.url}/v1/models -H "X-API-Key: $LIMITED"; done
# what the upstream is told of the caller, and that it never sees the key
curl -s {stack.url}/v1/echo -H "Authorization: Bearer $READ_ONLY"
# what a key has used, by model (its id or its prefix); both answers above are in it within a second
{exports(stack)}
authz keys usage {stack.records["read-write"].prefix}
# manage keys over the admin API (docs/managing-keys.md goes on from here)
authz keys list --server $AUTHZ_URL
curl -s $AUTHZ_URL/authz/v1/keys -H "Authorization: Bearer $ADMIN"
# revoke: the next request with that key is a 401
authz keys revoke {stack.records["read-only"].prefix} --server $AUTHZ_URL
# straight in the store, without a sidecar
authz keys list

metrics {stack.describe()["metrics"]}    logs {stack.folder}/*.log    Ctrl-C ends everything
"""


def profile_welcome(stack: Stack) -> str:
    """The same of the other profiles, with what their documentation shows."""
    keys = "\n".join(f"export {variable(name)}={token}" for name, token in stack.keys.items())
    profile, used = stack.profile, next(iter(stack.records))
    lines = "\n".join(
        f"# {example.status}: {example.told}\n{profile.curl(example, stack.url, variable)}"
        for example in profile.examples
    )
    lines += "".join(
        f"\n# 200: {name} logs in\ncurl -i -X POST {stack.url}{profile.login} -H 'Content-Type: application/json' "
        f'-d \'{{"username": "{name}", "password": "{password}"}}\''
        for name, password in stack.passwords.items()
    )
    if stack.certificate is not None:
        first = profile.curl(profile.examples[0], stack.url_tls, variable)
        lines += f"\n# the first one by TLS\n{first} --cacert {stack.certificate}"
    limited = profile.curl(replace(profile.examples[0], key="limited"), stack.url, variable)
    return f"""
Envoy protects a mock API on {stack.url} as {profile.name} has it (docs/profiles/{profile.name}.md). Its keys:

{keys}

{lines}
# 429 at the sixth
for i in 1 2 3 4 5 6; do {limited.replace("curl -i", "curl -so /dev/null -w '%{http_code} '")}; done
# what a key has used
{exports(stack)}
authz keys usage {stack.records[used].prefix}
# manage keys over the admin API
authz keys list --server $AUTHZ_URL
# revoke: the next request with that key is a 401
authz keys revoke {stack.records[used].prefix} --server $AUTHZ_URL

metrics {stack.describe()["metrics"]}    logs {stack.folder}/*.log    Ctrl-C ends everything
"""


def exports(stack: Stack) -> str:
    """What a shell needs to manage this stack's keys."""
    values = {
        "PATH": f"{Path(sys.executable).parent}:$PATH",
        "ENVOY": stack.url,
        "AUTHZ_URL": stack.describe()["http"],
        "AUTHZ_ADMIN_KEY": "$ADMIN",
        **stack.command_environment(),
    }
    return "export " + " ".join(f"{name}={value}" for name, value in values.items())


def variable(name: str) -> str:
    return name.upper().replace("-", "_")
