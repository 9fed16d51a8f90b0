"""One running stack for a worker: real Envoy, real Valkey, the sidecar as its users start it."""

from collections.abc import Iterator

import pytest

from authz.demo.stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with Stack(port=0, log_level="debug") as running:
        yield running
