"""Fixtures: real stores, one of each engine for a worker, emptied for every test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import stores
from tests.support.parts import Parts, parts


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[stores.Server]:
    server = stores.start("valkey")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[stores.Server]:
    server = stores.start("redis")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def cluster_server() -> Iterator[stores.Cluster]:
    with stores.cluster() as cluster:
        yield cluster


@pytest.fixture(params=["valkey", "redis", "cluster"])
def store_url(request: pytest.FixtureRequest) -> str:
    """An empty store of each kind: what uses this runs on all of them."""
    server = request.getfixturevalue(f"{request.param}_server")
    stores.flush(server.url)
    url: str = server.url
    return url


@pytest.fixture
def valkey_url(valkey_server: stores.Server) -> str:
    """An empty Valkey, where one kind is enough."""
    stores.flush(valkey_server.url)
    return valkey_server.url


@pytest.fixture
async def sidecar(store_url: str) -> AsyncIterator[Parts]:
    """One sidecar's adapters on an empty store of each kind."""
    async with parts(store_url) as made:
        yield made
