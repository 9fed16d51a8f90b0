"""`authz completion`: a script that has a shell complete this command's verbs and options."""

import argparse
from functools import partial
from typing import Final

from authz.cli.output import DONE


SHELLS: Final = ("bash", "zsh", "tcsh")
_EPILOG: Final = """\
bash: source <(authz completion bash), in ~/.bashrc say
zsh:  authz completion zsh > "${fpath[1]}/_authz"
tcsh: authz completion tcsh > ~/.authz.tcsh; source it from ~/.tcshrc
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", root: argparse.ArgumentParser) -> None:
    completion = commands.add_parser(
        "completion",
        help="a script that completes commands and options in your shell",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(command=partial(run, root))


def run(root: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    import shtab  # noqa: PLC0415 - takes as long to load as some commands to run

    _complete_files(root, shtab.FILE)
    print(shtab.complete(root, arguments.shell))
    return DONE


def _complete_files(parser: argparse.ArgumentParser, files: object) -> None:
    """What takes a FILE completes to files, in *parser* and in all below it."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to its options
        if action.metavar == "FILE":
            action.complete = files  # type: ignore[attr-defined]
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for below in action.choices.values():
                _complete_files(below, files)
