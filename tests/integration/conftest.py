"""One running stack for a worker: real Envoy, real Valkey, the sidecar as its users start it."""

from collections.abc import Iterator

import pytest

from authz.demo.stack import Stack
from tests.support.profile import ProfileStack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with Stack(port=0, log_level="debug") as running:
        yield running


@pytest.fixture(scope="session")
def inferexai() -> Iterator[ProfileStack]:
    with ProfileStack("inferexai") as running:
        yield running


@pytest.fixture(scope="session")
def inferno() -> Iterator[ProfileStack]:
    with ProfileStack("inferno") as running:
        yield running


@pytest.fixture(scope="session")
def podstack() -> Iterator[ProfileStack]:
    with ProfileStack("podstack") as running:
        yield running


@pytest.fixture(scope="session")
def vinfer() -> Iterator[ProfileStack]:
    with ProfileStack("vinfer") as running:
        yield running


@pytest.fixture(scope="session")
def voiceinfra() -> Iterator[ProfileStack]:
    with ProfileStack("voiceinfra") as running:
        yield running
