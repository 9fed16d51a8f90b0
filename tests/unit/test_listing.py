"""What lists are asked for: the grammar of filters, and the tokens of pages."""

import asyncio
import base64
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from authz.adapters.redis import listing
from authz.adapters.redis.listing import Cursor, Entry, newest
from authz.core.keyrecord import KeyRecord
from authz.core.listing import MAX_FILTER_CHARS, Filter, FilterError, parse_filter


FIELDS = ("workspace", "subject", "state", "name")
NOW_US = 1_795_000_000_000_000
KEY = KeyRecord("key_1a2b3c4d0fabcdefghij", "ci-build", "jwt", "sk-live-1a2b3c4d", "alice", "acme", version=1)


@pytest.mark.parametrize(
    ("text", "equal", "prefix"),
    [
        pytest.param("", {}, "", id="nothing asked"),
        pytest.param("  \t\n ", {}, "", id="white space alone"),
        pytest.param("workspace=acme", {"workspace": "acme"}, "", id="bare, no spaces"),
        pytest.param('workspace = "acme"', {"workspace": "acme"}, "", id="quoted"),
        pytest.param("workspace : acme", {"workspace": "acme"}, "", id="a colon"),
        pytest.param('  state="active"  ', {"state": "active"}, "", id="white space around it"),
        pytest.param(
            'workspace="acme" AND state=active AND name="ci-*"',
            {"workspace": "acme", "state": "active"},
            "ci-",
            id="three, one of them a prefix",
        ),
        pytest.param('workspace="a"AND state=active', {"workspace": "a", "state": "active"}, "", id="quote before AND"),
        pytest.param('workspace="a" AND\nstate=active', {"workspace": "a", "state": "active"}, "", id="two lines"),
        pytest.param('workspace=""', {"workspace": ""}, "", id="quoted and empty"),
        pytest.param(r'subject="a\"b\\c"', {"subject": 'a"b\\c'}, "", id="quote and backslash"),
        pytest.param('subject="a AND b"', {"subject": "a AND b"}, "", id="AND within quotes"),
        pytest.param('subject="a = (b:c)"', {"subject": "a = (b:c)"}, "", id="signs within quotes"),
        pytest.param("subject=AND", {"subject": "AND"}, "", id="AND as a value"),
        pytest.param("subject=a*", {"subject": "a*"}, "", id="an asterisk means something in a name alone"),
        pytest.param("name=ci*cd", {"name": "ci*cd"}, "", id="an asterisk in the middle of a name"),
        pytest.param("name=*", {}, "", id="an asterisk alone: every name"),
        pytest.param('name="ci**"', {}, "ci*", id="two asterisks: a name that goes on after one"),
        pytest.param("subject=Zoë", {"subject": "Zoë"}, "", id="letters of any language"),
        pytest.param(f"subject={'x' * 2040}", {"subject": "x" * 2040}, "", id="as long as it may be"),
    ],
)
def test_a_filter_that_can_be_read(text: str, equal: dict[str, str], prefix: str) -> None:
    read = parse_filter(text, FIELDS)

    assert (dict(read.equal), read.name_prefix) == (equal, prefix)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("acme", "must be conditions", id="a value alone"),
        pytest.param("workspace", "must be conditions", id="a field alone"),
        pytest.param("workspace=", "must be conditions", id="no value"),
        pytest.param('= "acme"', "must be conditions", id="no field"),
        pytest.param('workspace "acme"', "must be conditions", id="no sign"),
        pytest.param('workspace != "acme"', "must be conditions", id="not equal"),
        pytest.param("Workspace=acme", "must be conditions", id="upper case"),
        pytest.param("state=Active", "can ask for a state of active, expired, revoked", id="a state in upper case"),
        pytest.param('state=""', "can ask for a state of active, expired, revoked", id="no state at all"),
        pytest.param('workspace="acme', "must be conditions", id="a quote that is not closed"),
        pytest.param(r'workspace="a\nb"', "must be conditions", id="an escape that is none"),
        pytest.param('workspace="acme\\"', "must be conditions", id="the last quote escaped"),
        pytest.param("(workspace=acme)", "must be conditions", id="brackets"),
        pytest.param("AND workspace=acme", "must be conditions", id="AND in front"),
        pytest.param("workspace=acme AND AND state=active", "must be conditions", id="AND twice"),
        pytest.param("NOT state=active", "must be conditions", id="NOT"),
        pytest.param("workspace=acme AND", "joins conditions by AND", id="AND at the end"),
        pytest.param("workspace=acme state=active", "joins conditions by AND", id="nothing between"),
        pytest.param("workspace=acme OR state=active", "joins conditions by AND", id="OR"),
        pytest.param("workspace=acme and state=active", "joins conditions by AND", id="in lower case"),
        pytest.param("workspace=acme ANDstate=active", "joins conditions by AND", id="AND and no space"),
        pytest.param('workspace="a""b"', "joins conditions by AND", id="two values"),
        pytest.param("workspace=acme AND workspace=acme", "workspace twice", id="one field twice"),
        pytest.param("name=ci-* AND name=ci-1", "name twice", id="a prefix, and a name"),
        pytest.param("name=ci-1 AND name=ci-*", "name twice", id="a name, and a prefix"),
        pytest.param('name="*" AND name="ci-*"', "name twice", id="every name, and a prefix"),
        pytest.param("kind=jwt", "name, state, subject, workspace alone", id="a field that it cannot ask for"),
        pytest.param(f"subject={'x' * 2041}", "at most 2048", id="too long"),
    ],
)
def test_a_filter_that_cannot_be_read_says_why(text: str, told: str) -> None:
    with pytest.raises(FilterError, match=told):
        parse_filter(text, FIELDS)


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


texts = st.dictionaries(st.sampled_from(sorted({*FIELDS} - {"state"})), st.text(max_size=30))
conditions = st.builds(lambda told, state: told | state, texts, st.sampled_from([{}, {"state": "active"}]))


@given(conditions, st.sampled_from([" AND ", "\tAND\n", "  AND  "]), st.sampled_from(["=", " = ", ":", " : "]))
def test_whatever_is_quoted_comes_back(asked: dict[str, str], joined: str, sign: str) -> None:
    """Any value, any order, any white space between."""
    read = parse_filter(joined.join(f"{field}{sign}{quoted(value)}" for field, value in asked.items()), FIELDS)

    expected = dict(asked)
    prefix = expected.pop("name")[:-1] if asked.get("name", "").endswith("*") else ""
    assert (dict(read.equal), read.name_prefix) == (expected, prefix)


SENTENCES = {
    'must be conditions such as workspace = "acme", joined by AND',
    "joins conditions by AND alone",
    "can ask for name, state, subject, workspace alone",
    "can ask for a state of active, expired, revoked",
    *(f"asks for {field} twice" for field in FIELDS),
}


@given(st.text('abn_= :"\\*()AND \t', max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a FilterError leaves, and no refusal repeats what was given."""
    told = ""
    try:
        assert set(parse_filter(text, FIELDS).equal) <= set(FIELDS)
    except FilterError as error:
        told = str(error)

    assert told in {"", *SENTENCES}


def test_a_hostile_filter_takes_no_time() -> None:
    """Backslashes, quotes and spaces by the thousand: the grammar has one way to read each."""
    for piece in ('\\"', "\\", " ", "a=", '"', "a = b AND "):
        text = f'name="{piece * MAX_FILTER_CHARS}'[:MAX_FILTER_CHARS]
        with pytest.raises(FilterError):
            parse_filter(text, FIELDS)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        pytest.param("", True, id="nothing asked"),
        pytest.param("workspace=acme AND subject=alice AND state=active AND name=ci-*", True, id="everything fits"),
        pytest.param("name=ci-build", True, id="the whole name"),
        pytest.param("name=ci-build*", True, id="the whole name as a prefix"),
        pytest.param("name=ci", False, id="a part of the name"),
        pytest.param("name=build*", False, id="a later part of the name"),
        pytest.param("workspace=acm", False, id="a part of the workspace"),
        pytest.param('workspace=""', False, id="none of the workspaces"),
        pytest.param("workspace=acme AND subject=bob", False, id="one of two"),
        pytest.param("state=revoked", False, id="another state"),
    ],
)
def test_a_key_fits_or_not(text: str, *, matches: bool) -> None:
    assert parse_filter(text, FIELDS).matches_key(KEY, NOW_US) is matches


@pytest.mark.parametrize(
    ("record", "state"),
    [
        pytest.param(KEY, "active", id="active"),
        pytest.param(replace(KEY, expires_at_us=NOW_US + 1), "active", id="a microsecond before its end"),
        pytest.param(replace(KEY, expires_at_us=NOW_US), "expired", id="at its end"),
        pytest.param(replace(KEY, version=-2), "revoked", id="revoked"),
        pytest.param(replace(KEY, revoked_at_us=1), "revoked", id="revoked in bulk"),
        pytest.param(replace(KEY, version=-2, expires_at_us=1), "revoked", id="revoked before it could expire"),
    ],
)
def test_a_state_is_that_of_the_moment(record: KeyRecord, state: str) -> None:
    found = [told for told in ("active", "expired", "revoked") if Filter({"state": told}).matches_key(record, NOW_US)]

    assert found == [state]


moments = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
cursors = st.builds(Cursor, moments, st.binary(min_size=8, max_size=8))


@given(cursors, st.text(max_size=40))
def test_a_page_token_comes_back_for_the_same_question(cursor: Cursor, question: str) -> None:
    assume(question.isprintable())
    token = cursor.token(question)

    assert Cursor.read(token, question) == cursor
    assert token.replace("-", "").replace("_", "").isalnum()
    assert Cursor.read(token, question + ".") is None


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("x", id="one character"),
        pytest.param("nonsense", id="too short"),
        pytest.param("A" * 38, id="all zero"),
        pytest.param("A" * 400, id="too long"),
        pytest.param("=", id="padding alone"),
        pytest.param("ü" * 38, id="not ASCII"),
        pytest.param("\ud800", id="half a character"),
        pytest.param("AAAA AAAA", id="a space"),
        pytest.param(base64.b64encode(b"\xff" * 28).decode(), id="plain base64"),
    ],
)
def test_what_is_no_page_token_is_told(token: str) -> None:
    assert Cursor.read(token, "keys") is None


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_text_may_be_sent_as_a_page_token(token: str) -> None:
    read = Cursor.read(token, "keys")

    assert read is None or Cursor.read(read.token("keys"), "keys") == read


@given(cursors, st.data())
def test_a_page_token_cut_or_prolonged_is_none(cursor: Cursor, data: st.DataObject) -> None:
    token = cursor.token("keys")
    cut = data.draw(st.integers(0, len(token) - 1))

    assert Cursor.read(token[:cut], "keys") is None
    assert Cursor.read(token + "AAAA", "keys") is None


def test_a_page_token_shows_nothing_of_the_entry() -> None:
    """The reader of a page may not see the entry that it ended at."""
    token = Cursor.behind(Entry((NOW_US, 0), b"key_1a2b3c4d0fabcdefghij", 7)).token("keys")

    assert b"1a2b3c4d" not in base64.urlsafe_b64decode(token + "==")


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1), st.integers(0, 30)), max_size=70, unique=True),
    st.integers(1, 9),
)
def test_pages_give_everything_once_newest_first(made: list[tuple[int, int, int]], size: int) -> None:
    """Out of two partitions, in chunks of eight, with so few moments that most entries share theirs."""
    entries = [Entry((at, 0), b"%02d" % number, partition) for at, partition, number in made]
    asked = 0

    async def read(partition: int, newest_at: tuple[int, int] | None, count: int) -> list[Entry]:
        nonlocal asked
        asked += 1
        mine = [one for one in entries if one.partition == partition and (newest_at is None or one.at <= newest_at)]
        return sorted(mine, key=lambda one: (one.at, one.id), reverse=True)[:count]

    async def pages() -> list[Entry]:
        seen: list[Entry] = []
        after = None
        while True:
            page: list[Entry] = []
            async for entry in newest(read, range(2), after):
                page.append(entry)
                if len(page) == size:
                    break
            seen += page
            assert len(seen) <= len(entries)
            if len(page) < size:
                return seen
            after = Cursor.behind(page[-1])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(listing, "AT_A_TIME", 1)
        found = asyncio.run(pages())

    assert found == sorted(entries, key=lambda one: (one.at, one.id, one.partition), reverse=True)
    assert asked <= (len(entries) // size + 1) * 2 * (len(entries) // 8 + 2)
