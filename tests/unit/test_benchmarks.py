"""The arithmetic of the benchmarks: what is compared to what, and how it is told. Nothing is timed here."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import names, openloop, page, svg, table, targets
from benchmarks.figures import Round, Section, Spread, load, ratios, save, trouble
from benchmarks.loads import Fresh, Made, mixed
from benchmarks.runs import unexpected


CEILING, OURS = names.CEILING, names.FAST


def measured(requests_per_s: float, p99_ms: float = 2.0, **more: int) -> Round:
    return Round(requests_per_s, 1.0, p99_ms, authz_us=5, envoy_us=20, store_us=3, batch=8, **more)


def section(**rows: list[Round]) -> Section:
    return Section({"measured": "today"}, dict(rows), dict.fromkeys(rows, next(iter(rows))))


@pytest.fixture
def compared() -> Section:
    """The second round was slow for both."""
    rows = {CEILING: [measured(100), measured(50), measured(200)], OURS: [measured(80), measured(45), measured(100)]}
    return Section({"measured": "today"}, rows, dict.fromkeys(rows, CEILING))


def test_a_ratio_is_of_the_same_round(compared: Section) -> None:
    assert ratios(compared, OURS) == Spread(0.5, 0.8, 0.9)
    assert ratios(compared, CEILING) == Spread(1, 1, 1)


def test_what_was_not_measured_has_no_ratio(compared: Section) -> None:
    assert ratios(compared, "nobody") is None
    assert ratios(compared, OURS, to="nobody") is None
    assert ratios(section(first=[measured(0)], other=[measured(5)]), "other") is None


def test_a_spread_is_of_something() -> None:
    assert Spread.of([3, 1, 2]) == Spread(1, 2, 3)
    with pytest.raises(ValueError, match="nothing"):
        Spread.of([])


def test_tables_say_the_same_in_a_terminal_and_in_the_docs(compared: Section) -> None:
    told = table.closed(compared)

    assert told[2] == [OURS, "0.80 (0.50 to 0.90)", "80", "1.0 / 2.0", "5.0 / 20.0 / 3.0", "8.0"]
    assert f"| {' | '.join(told[2])} |" == table.markdown(told).splitlines()[3]
    assert len({len(line) for line in table.aligned([["a", "bb"], ["ccc", "d"]]).splitlines()}) == 1


def test_trouble_is_told() -> None:
    told = trouble(section(good=[measured(1)], bad=[measured(1, faults=2), measured(1, unexpected=3, faults=1)]))

    assert told == ["bad: 3 not answered as they should be, 3 faults or lost log entries, by authz's own count"]


@pytest.mark.parametrize(
    ("refused", "share", "expected"),
    [
        pytest.param(0, 0.0, 0, id="all are let in"),
        pytest.param(1, 0.0, 1, id="one is not"),
        pytest.param(999, 1.0, 1, id="one of those to be refused is let in"),
        pytest.param(510, 0.5, 0, id="about a half"),
        pytest.param(600, 0.5, 100, id="more than a half"),
    ],
)
def test_what_was_not_to_be_expected(refused: int, share: float, expected: int) -> None:
    assert unexpected(1000, refused, share) == expected


def test_results_are_kept_section_by_section(tmp_path: Path, compared: Section) -> None:
    """A run of one section leaves the others as they were, with their own conditions."""
    file = tmp_path / "results" / "latest.json"
    other = section(a=[measured(7)])

    save({names.SERVERS: compared}, file)
    save({names.MIXES: other}, file)

    assert load(file) == {names.SERVERS: compared, names.MIXES: other}
    assert load(tmp_path / "none.json") == {}


def test_targets_are_shown_beside_what_was_reached(compared: Section) -> None:
    shown = {line[0]: line[1:] for line in targets.table({names.SERVERS: compared})}

    assert shown["full check, one bucket, interpreted"] == ["≥ 0.68", "≥ 0.8", "0.80 (0.50 to 0.90)", "goal"]
    assert shown["p99 to the ceiling's, interpreted"] == ["≤ 1.8", "≤ 1.3", "1.00 (1.00 to 1.00)", "goal"]
    assert shown["4 connections, compiled"][-2:] == ["-", "not measured"]


@pytest.mark.parametrize(
    ("ours", "verdict"), [pytest.param(70, "floor", id="above the floor"), pytest.param(60, "missed", id="below it")]
)
def test_a_target_that_is_not_reached_is_told_so(ours: float, verdict: str) -> None:
    rows = {CEILING: [measured(100)], OURS: [measured(ours)]}
    reached = targets.table({names.SERVERS: Section({}, rows, dict.fromkeys(rows, CEILING))})

    assert next(line[-1] for line in reached if line[0] == "full check, one bucket, interpreted") == verdict


def test_the_page_is_written_between_its_markers_alone(tmp_path: Path, compared: Section) -> None:
    file = tmp_path / "performance.md"
    written = "# Words\n\n<!-- bench: servers -->\nold\n<!-- end -->\nmore\n<!-- bench: mixes -->\n<!-- end -->\n"
    file.write_text(written)

    page.write({names.SERVERS: compared}, file)
    once = file.read_text()
    page.write({names.SERVERS: compared}, file)

    assert file.read_text() == once
    assert once.startswith("# Words\n\n<!-- bench: servers -->\n|")
    assert "old" not in once
    assert "0.80 (0.50 to 0.90)" in once
    assert once.endswith(f"<!-- end -->\nmore\n<!-- bench: mixes -->\n{page.NOTHING}<!-- end -->\n")
    assert (tmp_path / "performance" / "servers.svg").exists()


def test_growth_compares_sizes_to_the_first(tmp_path: Path) -> None:
    rows = {"1": [measured(100)], "1,000": [measured(50)]}
    grown = Section({}, rows, dict.fromkeys(rows, "1"))
    (tmp_path / "performance.md").write_text("")

    page.write({names.ROUTES: grown}, tmp_path / "performance.md")

    assert page.line(names.ROUTES, grown).endswith("1 → 1,000: 100 → 50 requests/s, 0.50 (0.50 to 0.50)")
    assert "1k" in (tmp_path / "performance" / "growth.svg").read_text()


def test_every_part_of_the_page_is_one_that_is_measured() -> None:
    marked = {found[1] for found in page.MARKED.findall(page.PAGE.read_text())}

    assert {names.SERVERS, names.FEW, names.OPEN, names.MIXES, "targets", "growth", "memory"} == marked


def test_a_chart_is_well_formed_and_to_scale() -> None:
    rows = [svg.Bar("a < b", Spread(0.4, 0.5, 0.6), ours=True), svg.Bar("all", Spread(1, 1, 1), ours=False)]
    drawn = ET.fromstring(svg.bars("Title & more", "ratio", rows))
    half, whole = (float(bar.get("width", 0)) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect"))

    assert half == pytest.approx(whole / 2, abs=0.1)
    assert "a < b" in {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}


def test_a_panel_has_its_sizes_by_their_logarithm() -> None:
    points = [(size, Spread(1, 1, 1)) for size in (0, 10, 1_000_000)]
    drawn = ET.fromstring(svg.panels("Growth", "ratio", [svg.Panel("keys", points)]))
    first, second, third = (float(dot.get("cx", 0)) for dot in drawn.iter("{http://www.w3.org/2000/svg}circle"))

    assert (second - first) / (third - first) == pytest.approx(2 / 7, abs=0.01)  # nothing is a step below one


def test_fresh_requests_come_back_last() -> None:
    fresh = Fresh([b"a", b"b", b"c"], size=2)

    assert [list(fresh.next()) for _ in range(3)] == [[b"a", b"b"], [b"c", b"a"], [b"b", b"c"]]


def test_made_requests_never_come_back() -> None:
    made = Made(lambda place: b"%d" % place)

    assert not set(made.next()) & set(made.next())


def test_a_mix_has_one_of_each_kind_in_turn() -> None:
    assert mixed([b"a", b"b"], [b"x"]) == [b"a", b"x", b"b", b"x"]


def test_percentiles() -> None:
    values = [float(value) for value in range(100)]

    assert [openloop.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 99]
    assert openloop.percentile([], 0.5) == 0


@pytest.fixture
def half_refusing() -> Iterator[int]:
    """A server on loopback that answers every second request of a connection with 403, in two pieces; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                answers = 0
                while connection.recv(65536):
                    status = b"403" if answers % 2 else b"200"
                    connection.sendall(b"HTTP/1.1 " + status + b" x\r\nContent-Length: 4\r\n\r\nab")
                    connection.sendall(b"cd")
                    answers += 1

        accepting = threading.Thread(target=serve)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def test_an_open_loop_asks_as_often_as_is_due(half_refusing: int) -> None:
    seen, _ = openloop.run(half_refusing, [b"GET / HTTP/1.1\r\n\r\n"], rate=40, seconds=1, connections=2)

    assert (len(seen.latencies_s), seen.refused, seen.broken) == (40, 20, 0)


def test_an_open_loop_tells_what_was_never_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        ending = threading.Thread(target=hang_up)
        ending.start()
        seen, _ = openloop.run(
            listener.getsockname()[1], [b"GET / HTTP/1.1\r\n\r\n"], rate=10, seconds=1, connections=1
        )
        ending.join()

    assert (len(seen.latencies_s), seen.broken) == (0, 10)
