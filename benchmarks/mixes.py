"""The mixes: what is asked, of which sidecar, through which Envoy."""

import argparse
from typing import Final

from authz.core.bucket import Limit
from benchmarks import names
from benchmarks.bootstraps import Variant
from benchmarks.bulk import Bulk
from benchmarks.figures import Section
from benchmarks.loads import Again, Drawn, Fresh, Load, chat, gets, mixed
from benchmarks.parts import INTERPRETED, Contender, Parts, Tree, compiled, full_answer
from benchmarks.runs import Cell, run
from benchmarks.sidecars import HUNDRED, REQUESTS, ROUTES, TOKENS, made, settings
from benchmarks.tokens import Keys, some


TRACING: Final = Variant(tracing=True)
LEAST: Final = Limit(1, 31 * 86_400)  # one request, and then none
TEAMS: Final = 10


def measure_mixes(parts: Parts, options: argparse.Namespace) -> dict[str, Section]:
    mixes = Mixes(parts, options.many)
    trees = [(INTERPRETED, ""), *([(tree, names.COMPILED)] if (tree := compiled()) else [])]
    by_tree = [mixes.cells(tree, suffix) for tree, suffix in trees]
    cells = mixes.ceilings() + [cell for pair in zip(*by_tree, strict=True) for cell in pair]
    return run(cells, rounds=options.rounds, seconds=options.seconds, folder=parts.folder)


class Requests:
    """What is asked where there is one bucket."""

    def __init__(self, keys: Keys, many: int) -> None:
        tokens = keys.make(some(HUNDRED, "read-only"))
        self.hundred = gets(tokens)
        self.opaque = gets(keys.make(some(HUNDRED, "read-only", kind="opaque")))
        self.revoked = gets(keys.make(some(HUNDRED, "read-only"), revoked=True))
        self.many = gets(Bulk(keys.configuration).filled(many))
        self.later = gets(Bulk(keys.configuration, first=many).filled(many))
        forged = gets([token[:-8] + "A" * 8 for token in tokens])
        unscoped = gets(keys.make(some(HUNDRED)))
        limited = gets(keys.make(some(HUNDRED, "read-only", limits={"requests": LEAST})))
        good = self.hundred
        self.denied = mixed(good, forged, good, unscoped, good, limited, good, self.revoked)


class Mixes:
    """What all trees of the package share is made once: stores, keys, requests, the canned server."""

    def __init__(self, parts: Parts, many: int) -> None:
        self._parts = parts
        self._store, self._cluster = parts.valkey(), parts.cluster()
        both = {"requests": REQUESTS, "tokens": TOKENS}
        limits = {"default": both, "team": {"per": "workspace", "requests": REQUESTS}}
        routes = [{**route, "limits": list(limits)} for route in ROUTES]
        self._plain = settings(self._store)
        self._three = settings(self._store, routes=routes, limits=limits)
        self._settled = settings(self._store, limits={"default": both})
        self._clustered = settings(self._cluster)
        keys = Keys(parts.configured(self._plain)[1])
        self._asked = Requests(keys, many)
        teams = [one for team in range(TEAMS) for one in some(HUNDRED // TEAMS, "read-only", workspace=f"team-{team}")]
        self._in_teams = Again(gets(keys.make(teams)))
        self._chats = Again([chat(token) for token in made(parts, self._plain, "read-write")])
        self._elsewhere = Again(gets(made(parts, self._clustered, "read-only")))

    def ceilings(self) -> list[Cell]:
        """Of the mixes: one canned server, before Envoys that differ."""
        parts, hundred = self._parts, Again(self._asked.hundred)
        answer = parts.folder / "answer"
        sidecar = parts.sidecar(INTERPRETED, self._plain, self._store)  # for the answer alone
        answer.write_bytes(full_answer(sidecar, made(parts, self._plain, "read-only")[0]))
        canned = parts.canned("fast", answer)
        found: list[tuple[str, Contender, Load]] = [
            (names.CEILING, parts.envoy(canned), hundred),
            (names.CEILING_TRACED, parts.envoy(canned, TRACING), hundred),
            (names.CEILING_METERED, parts.envoy(canned, Variant(usage=True)), self._chats),
        ]
        return [Cell(names.MIXES, row, contender, load, names.CEILING) for row, contender, load in found]

    def cells(self, tree: Tree, suffix: str) -> list[Cell]:
        """Of one tree of the package; *suffix*: to the names of its rows."""
        parts, asked = self._parts, self._asked
        sidecar = parts.sidecar(tree, self._plain, self._store)
        logged = parts.sidecar(tree, self._settled, self._store, logged=True)
        plain, traced = parts.envoy(sidecar), parts.envoy(sidecar, TRACING)
        three = parts.envoy(parts.sidecar(tree, self._three, self._store))
        settled = parts.envoy(logged, Variant(log=logged.log, usage=True))
        clustered = parts.envoy(parts.sidecar(tree, self._clustered, self._cluster))
        found: list[tuple[str, Contender, Load, str, float]] = [
            (names.ONE, plain, Again(asked.hundred[:1]), names.CEILING, 0),
            (names.HUNDRED, plain, Again(asked.hundred), names.CEILING, 0),
            (names.MANY, plain, Drawn(asked.many), names.CEILING, 0),
            (names.FIRST_SEEN, plain, Fresh(asked.later), names.CEILING, 0),
            (names.OPAQUE, plain, Again(asked.opaque), names.CEILING, 0),
            (names.DENIED, plain, Again(asked.denied), names.CEILING, 0.5),
            (names.REVOKED, plain, Again(asked.revoked), names.CEILING, 1),
            (names.THREE, three, self._in_teams, names.CEILING, 0),
            (names.TRACED, traced, Again(asked.hundred), names.CEILING_TRACED, 0),
            (names.SETTLED, settled, self._chats, names.CEILING_METERED, 0),
            (names.CLUSTER, clustered, self._elsewhere, names.CEILING, 0),
        ]
        return [
            Cell(names.MIXES, row + suffix, contender, load, ceiling, refused=refused)
            for row, contender, load, ceiling, refused in found
        ]
