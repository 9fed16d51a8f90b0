"""
Ends a demo's processes and removes its folder, if the demo was killed and could not do so itself.

    python -m authz.demo.guardian FOLDER

It leads the process group that they are in, and reads their ids from stdin, which ends when the demo does.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from authz.adapters.redis.embedded import EmbeddedStore
from authz.demo.processes import DATA, STOP_S


def main(folder: Path) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    watched = [int(line) for line in sys.stdin]
    os.killpg(0, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_S
    while any(_lives(pid) for pid in watched) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    EmbeddedStore(folder / DATA).shut_down()  # the sidecar ends it, if it is given the time
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # what is left, and this process


def _lives(pid: int) -> bool:
    """Whether it is of this group still: the id may be another's by now."""
    try:
        return os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
