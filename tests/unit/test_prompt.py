"""How long a prompt is: every shape that counts, what is not readable, and what it costs to find out."""

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.adapters.prompts import INLINE, MAX_WAITING, PromptReader
from authz.core.decision import Reason, Refusal
from authz.core.prompt import MAX_DEPTH, MAX_VALUES, judge_prompt
from authz.ports import OverloadFault


def judged(body: object, most: int) -> Reason | None:
    refusal = judge_prompt(body if isinstance(body, bytes) else json.dumps(body).encode(), most)
    return refusal.reason if refusal else None


def message(content: object, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content, **more}]}


@pytest.mark.parametrize(
    ("body", "characters"),
    [
        pytest.param({"prompt": "abcd"}, 4, id="a prompt"),
        pytest.param({"prompt": ["ab", "", "cd"]}, 4, id="several"),
        pytest.param(message("abcd"), 4, id="a message"),
        pytest.param({"messages": [{"content": "ab"}, {"content": "cd"}]}, 4, id="messages"),
        pytest.param(message([{"type": "text", "text": "ab"}, {"text": "cd"}]), 4, id="parts"),
        pytest.param(message([{"image_url": {"text": "x" * 99}}, {"text": "abcd"}]), 4, id="parts without a text"),
        pytest.param(message(["ab", {"text": "cd"}]), 4, id="parts that are texts"),
        pytest.param(message(None, tool_calls=[{"content": "x" * 99}]), 0, id="null"),
        pytest.param(message([{"text": None}]), 0, id="a part with null"),
        pytest.param({"prompt": "ab", "messages": [{"content": "cd"}]}, 4, id="both"),
        pytest.param({"prompt": None, "messages": None}, 0, id="nulls"),
        pytest.param({"input": "x" * 99, "system": "x" * 99, "tools": [{"prompt": "x" * 99}]}, 0, id="elsewhere"),
        pytest.param({}, 0, id="empty"),
        pytest.param({"prompt": "é😀\u00a0x"}, 4, id="characters, not bytes"),
        pytest.param(b'{"prompt":"\\u0041\\n\\ud83d\\ude00\\\\"}', 4, id="escapes are what they mean"),
        pytest.param('{"prompt":"😀\u0301ab"}'.encode(), 4, id="code points, not what one sees"),
        pytest.param(b'{"prompt":"ab","prompt":"cd"}', 4, id="twice: each counts"),
        pytest.param(b'{"messages":[{"content":"ab","content":"cd"}]}', 4, id="twice in a message"),
        pytest.param(b'{"Prompt":"ab","PROMPT":"cd"}', 4, id="any case, as Go reads it"),
        pytest.param('{"me\u017fsages":[{"content":"abcd"}]}'.encode(), 4, id="any case, in full"),
        pytest.param(b'{"pro\\u006dpt":"abcd"}', 4, id="an escaped name"),
        pytest.param(b' \r\n\t{ "prompt" :\t"abcd" , "a" : [ ] , "b" : { } } \n', 4, id="white space"),
        pytest.param({"prompt": "abcd", "x": [1, -2.5e3, True, False, None, [{}], "t"]}, 4, id="values of all kinds"),
    ],
)
def test_length(body: object, characters: int) -> None:
    """At its length it passes, one less is too few."""
    assert judged(body, characters) is None
    if characters:
        assert judged(body, characters - 1) is Reason.PROMPT_TOO_LONG


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" ", id="white space"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b'{"prompt":"ab', id="cut off in a text"),
        pytest.param(b'{"a":1,}', id="a comma too many"),
        pytest.param(b'{"a" 1}', id="no colon"),
        pytest.param(b"{1:1}", id="a number for a name"),
        pytest.param(b'{"a":1 "b":2}', id="no comma"),
        pytest.param(b"{} {}", id="two"),
        pytest.param(b"{'a':1}", id="apostrophes"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":-Infinity}', id="Infinity"),
        pytest.param(b'{"a":01}', id="a leading zero"),
        pytest.param(b'{"a":"\n"}', id="a line end in a text"),
        pytest.param(b'{"a":[1}}', id="brackets that do not fit"),
        pytest.param(b'{"a":[1,]}', id="a comma too many in a list"),
        pytest.param(b'{"a":nul}', id="a word"),
        pytest.param(b'{"prompt":nul}', id="a word for a prompt"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", id="a number that cannot be read"),
        pytest.param(b"\xef\xbb\xbf{}", id="BOM"),
        pytest.param(b'{"prompt":"\xff"}', id="not UTF-8"),
        pytest.param('{"prompt":"a"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b"\x1f\x8b\x08\x00", id="gzip"),
        pytest.param(b"prompt=abc", id="a form"),
        pytest.param(b'["prompt"]', id="a list"),
        pytest.param(b'"prompt"', id="a text"),
        pytest.param(b"null", id="null"),
        pytest.param({"prompt": 7}, id="a number for a prompt"),
        pytest.param({"prompt": [1, 2, 3]}, id="tokens: nobody knows how long they are"),
        pytest.param({"prompt": [["a"]]}, id="lists in lists"),
        pytest.param({"prompt": {"text": "a"}}, id="an object for a prompt"),
        pytest.param({"messages": {"content": "a"}}, id="one message, not in a list"),
        pytest.param({"messages": ["a"]}, id="messages that are texts"),
        pytest.param({"messages": [[{"content": "a"}]]}, id="messages in lists"),
        pytest.param(message({"text": "a"}), id="one part, not in a list"),
        pytest.param(message(True), id="truth for content"),
        pytest.param(message([["a"]]), id="parts in lists"),
        pytest.param(message([{"text": {"value": "a"}}]), id="a text within a text"),
        pytest.param(b'{"x":' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}", id="too deep"),
        pytest.param(b'{"x":' * 500_000, id="objects without end"),
        pytest.param(b'{"x":' + b"[" * 5_000_000, id="lists without end"),
        pytest.param(b'{"x":[' + b"1," * MAX_VALUES + b"1]}", id="too many values"),
    ],
)
def test_what_cannot_be_judged(body: object) -> None:
    assert judged(body, 10**9) is Reason.BAD_REQUEST


def test_depth_and_number_of_values_have_room() -> None:
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    many = b"[" + b"1," * (MAX_VALUES - 200) + b"1]"

    assert judged(b'{"x":' + deep + b',"y":' + many + b"}", 0) is None


def test_a_hint_repeats_nothing_that_was_sent() -> None:
    for body in (b'{"prompt":"s3cret"}', b'{"prompt":s3cret}', b'{"s3cret"', b'{"prompt":{"s3cret":1}}'):
        refusal = judge_prompt(body, 1)
        assert refusal is not None
        assert "s3cret" not in str(refusal)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
contents = st.none() | st.text(max_size=9) | st.lists(st.fixed_dictionaries({"text": st.text(max_size=9)}), max_size=3)
bodies = st.builds(
    lambda more, prompt, content: {**more, "prompt": prompt, "messages": [{"content": each} for each in content]},
    st.dictionaries(st.text(max_size=5).filter(lambda name: name.casefold() not in {"prompt", "messages"}), values),
    st.none() | st.text(max_size=9) | st.lists(st.text(max_size=9), max_size=3),
    st.lists(contents, max_size=3),
)


def length(content: Any) -> int:
    if isinstance(content, list):
        return sum(length(part["text"] if isinstance(part, dict) else part) for part in content)
    return len(content or "")


@settings(deadline=None)
@given(bodies, st.booleans(), st.sampled_from([None, 1]))
def test_as_json_reads_it(body: Any, ascii_alone: bool, indent: int | None) -> None:
    """The same length as by a whole JSON parser, however it is written."""
    written = json.dumps(body, ensure_ascii=ascii_alone, indent=indent).encode("utf-8", "surrogatepass")
    read = json.loads(written)
    characters = length(read["prompt"]) + sum(length(each["content"]) for each in read["messages"])

    assert judged(written, characters) is None
    assert characters == 0 or judged(written, characters - 1) is Reason.PROMPT_TOO_LONG


@settings(deadline=None)
@given(st.text(alphabet='{}[]",:\\ntruefalsnl0123.eE+- u', max_size=40))
def test_what_is_json_and_what_is_not(text: str) -> None:
    """In what nobody judges, everything is readable that a strict parser reads, and nothing else is."""
    body = b'{"x":' + text.encode() + b"}"
    try:
        read = json.loads(body, parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        read = None

    assert (judged(body, 10**9) is None) == (read is not None)


WORST = b'{"x":[' + b"{}," * (10 * 1024 * 1024 // 3 - 10) + b"{}]}"


def test_hostile_bodies_take_neither_memory_nor_time() -> None:
    """10 MB that a parser makes a fifth of a gigabyte of."""
    tracemalloc.start()
    start_s = time.monotonic()
    assert judged(WORST, 10_000) is Reason.BAD_REQUEST
    took_s, (_, peak) = time.monotonic() - start_s, tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2.5 * len(WORST)
    assert took_s < 5


async def test_the_loop_goes_on_while_bodies_are_read() -> None:
    reader = PromptReader()
    heavy = b'{"x":[' + b"1," * (MAX_VALUES - 10) + b'1], "pad": "' + b"x" * 10_000_000 + b'"}'
    reading = asyncio.gather(*(reader.judge(heavy, 5) for _ in range(4)))
    longest_s, last_s = 0.0, time.monotonic()
    while not reading.done():
        await asyncio.sleep(0.001)
        longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()
    reader.close()

    assert await reading == [None] * 4
    assert longest_s < 0.2  # far less on a machine that does nothing else


async def test_more_bodies_than_may_wait_are_refused() -> None:
    """Small ones are read all the same."""
    reader = PromptReader()
    large = json.dumps({"prompt": "x" * INLINE}).encode()

    answers = await asyncio.gather(*(reader.judge(large, 5) for _ in range(MAX_WAITING + 2)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [Refusal] * MAX_WAITING + [OverloadFault] * 2
    assert await reader.judge(large, INLINE) is None
    assert await reader.judge(b'{"prompt":"ab"}', 2) is None
    reader.close()
