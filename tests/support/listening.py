"""Everything that is logged, to look for what must not be."""

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from authz.adapters.logs.setup import JsonFormatter


CLIENTS: Final = ("httpx", "httpcore", "hpack")  # their logs are the test's own


@contextmanager
def listening() -> Iterator[Callable[[], str]]:
    """Everything that is logged, at every level, as the sidecar writes it and as Python's own formatter does."""
    streams = [io.StringIO(), io.StringIO()]
    handlers = [logging.StreamHandler(stream) for stream in streams]
    handlers[0].setFormatter(JsonFormatter())
    handlers[1].setFormatter(logging.Formatter("%(name)s %(message)s %(args)s %(fields)s", defaults={"fields": ""}))
    root, ours = logging.getLogger(), logging.getLogger("authz")
    levels = root.level, ours.level
    for handler in handlers:
        handler.addFilter(lambda record: not record.name.startswith(CLIENTS))
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    ours.setLevel(logging.DEBUG)
    try:
        yield lambda: "".join(stream.getvalue() for stream in streams)
    finally:
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        for handler in handlers:
            root.removeHandler(handler)
