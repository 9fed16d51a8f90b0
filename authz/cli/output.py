"""How commands print: tables for people, JSON for scripts, one sentence for an error."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Final


DONE: Final = 0
FAILED: Final = 1
BAD_USAGE: Final = 2


class CommandError(Exception):
    """Told in one sentence, without a traceback. `status`: the exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def print_json(data: object) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=None))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = [tuple(titles), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def note(text: str) -> None:
    print(text, file=sys.stderr)


def printable(text: str) -> str:
    r"""*text* without what would move a terminal's cursor or turn its writing around: that is shown as `\x1b`."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
