"""
Writes envoy-without-sse.yaml: envoy.yaml without what stands between `# without-sse: from here` and `to here`.

    python without_sse.py
"""
# ruff: noqa: INP001 -- it stands alone

import re
from pathlib import Path
from typing import Final


FOLDER: Final = Path(__file__).parent
HEAD: Final = """\
# envoy.yaml for an Envoy before 1.38, which has no sse_to_metadata. Made from it by without_sse.py: change that file,
# and run `make envoy-variant`.
#
# What is lost: Envoy learns nothing of streams. Their requests keep the estimate that was spent, and their tokens are
# in no usage. JSON answers are booked as ever. Tried on 1.37.0. 1.36.4 starts with it as well, but does not heed
# request_body_buffer_limit for requests: raise the listener's per_connection_buffer_limit_bytes to 65536 there, or JSON
# requests between 32 and 64 KiB are a 413.
"""


def without_sse(bootstrap: str) -> str:
    """Raises: ValueError — a block is not closed, or there is none."""
    text, found = re.subn(r" *# without-sse: from here\n.*?# without-sse: to here\n", "", bootstrap, flags=re.DOTALL)
    if not found or "without-sse" in text.partition("\n\n")[2]:
        raise ValueError("the blocks of envoy.yaml are not all closed")
    _, _, rest = text.partition("\n\n")
    return f"{HEAD}\n{rest}"


if __name__ == "__main__":
    (FOLDER / "envoy-without-sse.yaml").write_text(without_sse((FOLDER / "envoy.yaml").read_text()))
