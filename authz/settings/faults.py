"""What is wrong with a configuration, told all at once: where, which field, why, and the nearest name that exists."""

import difflib
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError


Path = tuple[str | int, ...]

# What the documented configuration knows and this version does not: told by name, never taken and ignored.
_LATER_VALUES: Final = {
    ("store", "on_error"): {"local"},
    ("keys", "keyring", "algorithm"): {f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)}
    | {"EdDSA"},
}
_SHAPES: Final = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a mapping"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    "too_short": "must not be empty",
    "bool_type": "must be true or false",
}
_LATER_FIELDS: Final = re.compile(r"listen\.(\w+\.tls|forward_auth)|store\.revoke_replicas|keys\.issuers")


@dataclass(frozen=True, slots=True)
class SettingsFault:
    """`source`: a file, or the environment variable that set the field."""

    source: str
    field: str
    reason: str
    nearest: str = ""

    def __str__(self) -> str:
        hint = f" (did you mean {self.nearest!r}?)" if self.nearest else ""
        return f"{self.source}: {self.field + ': ' if self.field else ''}{self.reason}{hint}"


class SettingsError(Exception):
    """A configuration that cannot be used. `faults`: all of them."""

    def __init__(self, faults: Sequence[SettingsFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


def shown(path: Path) -> str:
    """`routes[1].scopes[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def nearest(name: object, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(str(name), sorted(known), n=1, cutoff=0.6)
    return found[0] if found else ""


def from_validation(error: ValidationError, model: type[BaseModel]) -> list[tuple[Path, str, str]]:
    """(path, reason, nearest valid name) of everything that the models refused."""
    faults = error.errors(include_url=False)
    return [_told(dict(fault), model) for fault in faults if not _follows(fault["type"], fault["loc"], faults)]


def _follows(kind: str, loc: Path, faults: Sequence[Mapping[str, Any]]) -> bool:
    """A list that is too short because its items were refused: the items' own faults say it better."""
    return kind == "too_short" and any(other["loc"][: len(loc)] == loc != other["loc"] for other in faults)


def _told(fault: dict[str, object], model: type[BaseModel]) -> tuple[Path, str, str]:
    raw_path = fault["loc"]
    path: Path = tuple(part for part in raw_path if part != "[key]") if isinstance(raw_path, tuple) else ()
    kind, value, message = str(fault["type"]), fault.get("input"), str(fault["msg"])
    dotted = ".".join(str(part) for part in path)
    later: Container[str] = _LATER_VALUES.get(tuple(part for part in path if isinstance(part, str)), frozenset())
    if _LATER_FIELDS.fullmatch(dotted) or (isinstance(value, str) and value in later):
        what = f"{value!r} is" if isinstance(value, str) and not dotted.endswith("tls") else "it is"
        return path, f"{what} not supported by this version yet", ""
    if kind == "extra_forbidden":
        return path, "unknown field", nearest(path[-1], _fields_at(model, path[:-1]))
    if kind in _SHAPES:
        return path, _SHAPES[kind], ""
    if kind == "missing":
        return path, "is required", ""
    if kind == "literal_error":
        context = fault.get("ctx")
        allowed = re.findall(r"'([^']+)'", str(context["expected"])) if isinstance(context, dict) else []
        return path, f"must be one of {', '.join(allowed)}" if allowed else message, nearest(value, allowed)
    return path, _plain(message), ""


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
    return message[:1].lower() + message[1:]


def _fields_at(model: type[BaseModel], path: Path) -> frozenset[str]:
    """The names that a mapping at *path* may hold; empty where they are free."""
    at: object = model
    for part in path:
        if isinstance(at, type) and issubclass(at, BaseModel) and isinstance(part, str) and part in at.model_fields:
            at = at.model_fields[part].annotation
        at = _model_within(at)
    return frozenset(at.model_fields) if isinstance(at, type) and issubclass(at, BaseModel) else frozenset()


def _model_within(annotation: object) -> object:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_within(argument)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return annotation
