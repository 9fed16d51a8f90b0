"""What a body asks for: every shape of a prompt that counts, what is not readable, and what it costs to find out."""

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.decision import Reason, Refusal
from authz.core.prompt import MAX_DEPTH, MAX_VALUES, Prompt, read_prompt
from authz.core.rules import RequestRule, judge_prompt


def read(body: object) -> Prompt | Refusal:
    return read_prompt(body if isinstance(body, bytes) else json.dumps(body).encode())


def refusal_of(body: object, most: int) -> Refusal | None:
    prompt = read(body)
    return prompt if isinstance(prompt, Refusal) else judge_prompt((RequestRule("rule", max_prompt=most),), prompt)


def judged(body: object, most: int) -> Reason | None:
    refusal = refusal_of(body, most)
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
        pytest.param({"n" * 100: 1, "prompt": "abcd"}, 4, id="a long name"),
        pytest.param(b'{"n\\u0041" : 1, "\\"" : 2, "prompt":"abcd"}', 4, id="names with escapes"),
        pytest.param(b'{"prompt":"abcd","x":[' + b"9" * 10**6 + b",1." + b"9" * 10**6 + b"]}", 4, id="long numbers"),
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
        pytest.param(b'{"a":1.}', id="a point without digits"),
        pytest.param(b'{"a":-}', id="a sign alone"),
        pytest.param(b'{"a":1e}', id="an exponent without digits"),
        pytest.param('{"a":٣}'.encode(), id="other digits"),
        pytest.param(b'{"a":"\\x41"}', id="an escape that is none"),
        pytest.param(b'{"\n":1}', id="a line end in a name"),
        pytest.param(b'{"a\\u0041" 1}', id="no colon behind an escaped name"),
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
        pytest.param(b"{" + b'"a":1,' * (MAX_VALUES // 2) + b'"a":1}', id="too many names and values"),
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
        refusal = refusal_of(body, 1)
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
    """As long as by a whole JSON parser, however it is written."""
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


@pytest.mark.parametrize(
    ("body", "streams"),
    [
        pytest.param({"prompt": "x"}, False, id="nothing said"),
        pytest.param({"stream": False}, False, id="false"),
        pytest.param({"stream": None}, False, id="null"),
        pytest.param({"stream": True}, True, id="true"),
        pytest.param(b'{"stream" :\n true }', True, id="white space"),
        pytest.param({"stream": 0}, True, id="zero: who knows"),
        pytest.param({"stream": ""}, True, id="an empty text"),
        pytest.param({"stream": "false"}, True, id="false as a text"),
        pytest.param({"stream": []}, True, id="a list"),
        pytest.param({"stream": {}}, True, id="an object"),
        pytest.param({"Stream": True}, True, id="a capital"),
        pytest.param({"STREAM": 1}, True, id="capitals"),
        pytest.param('{"\u017ftream":true}'.encode(), True, id="a long s"),
        pytest.param('{"\ufb06ream":true}'.encode(), True, id="a ligature"),
        pytest.param(b'{"\\u0073tream":true}', True, id="an escaped name"),
        pytest.param(b'{"stream":true,"stream":false}', True, id="twice: true first"),
        pytest.param(b'{"stream":false,"Stream":true}', True, id="twice: true last"),
        pytest.param(b'{"stream":false,"STREAM":null}', False, id="twice, and never"),
        pytest.param({"stream_options": {"stream": True}, "x": [{"stream": True}]}, False, id="elsewhere"),
        pytest.param(message("x", stream=True), False, id="in a message"),
        pytest.param({"streams": True, " stream": True}, False, id="other names"),
        pytest.param({"prompt": [1, 2], "stream": True}, True, id="behind a prompt of no known shape"),
        pytest.param({"prompt": "x" * 10**6, "stream": True}, True, id="behind a long prompt"),
    ],
)
def test_streams(body: object, *, streams: bool) -> None:
    prompt = read(body)

    assert isinstance(prompt, Prompt)
    assert prompt.streams is streams


@pytest.mark.parametrize("value", ["falsey", "nullable", "f", "t", "False", "true false", ""])
def test_a_stream_that_is_no_json_is_not_readable(value: str) -> None:
    assert isinstance(read(b'{"stream":' + value.encode() + b"}"), Refusal)


def test_a_prompt_of_no_known_shape_is_refused_where_its_length_counts_alone() -> None:
    prompt = read({"prompt": [1, 2, 3]})

    assert prompt == Prompt(characters=None, streams=False)
    assert judge_prompt((RequestRule("rule", stream_scopes=("a",)),), prompt) is None


MB = 10**6
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"prompt": "hi", "image": "QUJD" * (10 * MB // 4)}, id="an image"),
        pytest.param(b'{"prompt":"hi","audio":"' + b"QU\\/D" * 2 * MB + b'"}', id="audio, as PHP writes it"),
        pytest.param({"x": "中" * (10 * MB // 6)}, id="Chinese, as Python writes it"),
        pytest.param({"messages": [{"role": "user", "content": "x" * 4900}] * 2000}, id="2,000 messages"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 2}] * 2000}, id="of two parts"
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]}] * 2000}, id="of tool calls"
        ),
    ],
)
def test_large_bodies_of_real_life_are_readable(body: object) -> None:
    prompt = read(body)

    assert isinstance(prompt, Prompt)
    assert prompt.characters is not None


def filled(begin: bytes, unit: bytes, end: bytes) -> bytes:
    """10 MB."""
    return begin + unit * ((10 * MB - len(begin) - len(end)) // len(unit)) + end


MANY = b'"y":[' + b"{}," * (MAX_VALUES - 10) + b"{}]}"  # as many as are read


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(filled(b'{"x":[', b"{},", b"{}]}"), id="objects"),
        pytest.param(filled(b'{"x":[', b"[" * 90 + b"]" * 90 + b",", b"1]}"), id="lists in lists"),
        pytest.param(filled(b"{", b'"a":1,', b'"a":1}'), id="one name, again and again"),
        pytest.param(filled(b'{"', "\u0390".encode(), b'":1}'), id="a long name that folds to three times its length"),
        pytest.param(filled(b"{", b'"' + b"\\u0041" * 40 + b'":1,', b'"a":1}'), id="long names of escapes"),
        pytest.param(filled(b'{"x":[', b"9" * 4000 + b",", b"1]}"), id="long numbers"),
        pytest.param(filled(b'{"x":[', b"2." + b"2" * 770 + b"e-308,", b"1]}"), id="numbers hard to convert"),
        pytest.param(filled(b'{"x":"', b"a\\n", b'",' + MANY), id="escapes, and as many values as are read"),
        pytest.param(filled(b'{"prompt":"', b"a", '\U0001f600"}'.encode()), id="wide characters"),
        pytest.param(
            filled(b'{"prompt":"', b"a" * MB + b"\\n", '\U0001f600"}'.encode()), id="wide characters and escapes"
        ),
        pytest.param(filled(b"{", b" ", b"}"), id="white space"),
    ],
)
def test_hostile_bodies_take_little_memory_and_time(body: bytes) -> None:
    """Where json.loads takes 25 times their size, or a second."""
    start_s = time.process_time()
    read(body)
    took_s = time.process_time() - start_s
    tracemalloc.start()
    read(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 10.5 * len(body)
    assert took_s < 2  # less than a tenth of that on a machine that does nothing else
