"""A bounded memory: the least recently used goes first."""

from hypothesis import given
from hypothesis import strategies as st

from authz.core.recent import Recent


def remembered(*names: str, size: int = 3) -> Recent[str, str]:
    made: Recent[str, str] = Recent(size)
    for name in names:
        made.put(name, name.upper())
    return made


def test_the_oldest_goes_when_a_new_one_does_not_fit() -> None:
    made = remembered("a", "b", "c", "d")

    assert [name for name in "abcd" if name in made] == ["b", "c", "d"]
    assert len(made) == 3
    assert made.get("a") is None


def test_what_is_asked_for_stays() -> None:
    made = remembered("a", "b", "c")

    assert made.get("a") == "A"
    made.put("d", "D")

    assert [name for name in "abcd" if name in made] == ["a", "c", "d"]


def test_what_is_put_anew_has_its_new_value_and_stays() -> None:
    made = remembered("a", "b", "c")

    made.put("a", "anew")
    made.put("d", "D")

    assert made.get("a") == "anew"
    assert "b" not in made


def test_to_look_whether_it_is_there_is_no_use() -> None:
    made = remembered("a", "b", "c")

    assert "a" in made
    made.put("d", "D")

    assert "a" not in made


def test_what_is_forgotten_is_gone_and_can_be_forgotten_again() -> None:
    made = remembered("a", "b")

    made.forget("a")
    made.forget("a")

    assert (len(made), made.get("a"), made.get("b")) == (1, None, "B")


def test_a_memory_for_nothing_keeps_nothing() -> None:
    made = remembered("a", size=0)

    assert (len(made), made.get("a")) == (0, None)


operations = st.lists(
    st.tuples(st.sampled_from(["put", "get", "forget", "in"]), st.integers(0, 5), st.integers(0, 99)), max_size=60
)


@given(st.integers(0, 4), operations)
def test_it_is_what_a_plain_list_would_be(size: int, asked: list[tuple[str, int, int]]) -> None:
    """Against a list of pairs, the least recently used in front."""
    made: Recent[int, int] = Recent(size)
    model: list[tuple[int, int]] = []
    for what, key, value in asked:
        known = next((pair for pair in model if pair[0] == key), None)
        match what:
            case "put":
                model = [*(pair for pair in model if pair[0] != key), (key, value)]
                model = model[max(0, len(model) - size) :]
                made.put(key, value)
            case "get":
                assert made.get(key) == (known[1] if known else None)
                model = [*(pair for pair in model if pair != known), *([known] if known else [])]
            case "forget":
                made.forget(key)
                model = [pair for pair in model if pair[0] != key]
            case _:
                assert (key in made) == (known is not None)
        assert len(made) == len(model)
    assert [key for key in range(6) if key in made] == sorted(key for key, _ in model)
