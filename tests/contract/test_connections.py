"""As many connections as there are: whoever asks waits for one, and is not told that the store is away."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from authz.admin.keys import NewKey
from authz.core.decision import Reason
from tests.support import stores
from tests.support.parts import configuration, parts, pipeline
from tests.support.parts import request as asked


@pytest.fixture(scope="module")
def cluster_of_one() -> Iterator[str]:
    """As small deployments have it: every partition lies on the same node."""
    node = stores.LocalServer(stores.local_binary("valkey"), "--cluster-enabled", "yes")
    node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    deadline_s = time.monotonic() + 15
    while node.client.cluster("INFO")["cluster_state"] != "ok" and time.monotonic() < deadline_s:
        time.sleep(0.02)
    yield node.url.replace("redis://", "redis+cluster://")
    node.stop()


@pytest.fixture
def url_of_kind(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "a cluster of one":
        url: str = request.getfixturevalue("cluster_of_one")
    else:
        url = request.getfixturevalue(f"{kind}_server").url
    stores.flush(url)
    return url


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("kind", ["valkey", "a cluster of one"])
async def test_many_checks_in_every_partition(url_of_kind: str, warm: bool) -> None:
    """Six hundred at once, of a hundred and fifty keys: all are answered, and the breaker stays closed."""
    configured = configuration(routes=[{"path": "/any"}], limits={})
    async with parts(url_of_kind) as made:
        tokens = [(await made.create(NewKey("test"))).token for _ in range(150)]
    async with parts(url_of_kind) as made:
        check = pipeline(configured, made).check
        if warm:
            for token in tokens:
                await check(asked(token, path="/any"))
        answers = await asyncio.gather(*(check(asked(token, path="/any")) for token in tokens * 4))

        assert Counter(answer.reason for answer in answers) == {Reason.ALLOWED: 600}
        assert made.observer.faults == []


async def test_many_at_once_who_manage_keys(store_url: str) -> None:
    """A hundred and fifty look-ups by those who manage keys take nothing from the checks."""
    configured = configuration(routes=[{"path": "/any"}], limits={})
    async with parts(store_url) as made:
        mine = await made.create(NewKey("test"))
        check = pipeline(configured, made).check
        await check(asked(mine.token, path="/any"))

        shown = [asyncio.create_task(made.show(mine.record.id)) for _ in range(150)]
        await asyncio.sleep(0)
        answer = await check(asked(mine.token, path="/any"))
        ended = await asyncio.gather(*shown, return_exceptions=True)

        assert answer.reason is Reason.ALLOWED
        assert [one for one in ended if isinstance(one, BaseException)] == []
        assert made.observer.faults == []
