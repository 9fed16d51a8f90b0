"""One running stack for a worker: real Envoy, real Valkey, the sidecar as its users start it."""

from collections.abc import Iterator
from typing import Any

import pytest

from authz.demo.stack import Stack
from tests.support.profile import ProfileStack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with Stack(port=0, log_level="debug") as running:
        yield running


def _running(profile: str) -> Any:
    @pytest.fixture(scope="session", name=profile)
    def running() -> Iterator[ProfileStack]:
        with ProfileStack(profile) as stack:
            yield stack

    return running


inferexai = _running("inferexai")
inferno = _running("inferno")
podstack = _running("podstack")
vinfer = _running("vinfer")
voiceinfra = _running("voiceinfra")
