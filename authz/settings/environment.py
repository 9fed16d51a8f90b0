"""`AUTHZ_` variables over the file: any scalar, by its path in upper case, joined by two underscores."""

import copy
import re
from collections.abc import Mapping
from typing import Final

import yaml

from authz.settings.faults import Path, SettingsFault, nearest


PREFIX: Final = "AUTHZ_"
_OURS_BUT_NO_FIELD: Final = frozenset({"CONFIG", "ADMIN_KEY"})
# What Kubernetes puts into every pod beside a Service that is called `authz`.
_KUBERNETES: Final = re.compile(r"(PORT|SERVICE)(_.*)?")

# What PyYAML raises on hostile scalars: its constructors let Python's own errors through.
YAML_FAULTS: Final = (
    yaml.YAMLError,
    RecursionError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    OverflowError,
)


def override(
    raw: dict[str, object], environ: Mapping[str, str], defaults: Mapping[str, object]
) -> tuple[dict[str, object], dict[Path, str], list[SettingsFault]]:
    """
    *raw* with the environment's values in it; which variable set which path; what could not be taken.

    A field that the file does not have starts from its default, so that one part of it can be changed alone.
    """
    merged = copy.deepcopy(raw)
    taken: dict[Path, str] = {}
    faults: list[SettingsFault] = []
    for variable in sorted(environ):
        if near := _near_miss(variable, defaults):
            faults.append(SettingsFault(f"${variable}", near[0], near[1], near[2]))
            continue
        segments = _segments(variable, defaults)
        if not segments:
            continue
        top = segments[0].lower()
        if top not in defaults:
            faults.append(SettingsFault(f"${variable}", top, "unknown field", nearest(top, defaults)))
            continue
        path = _put(merged, segments, _value(environ[variable]), defaults)
        if path is None:
            faults.append(SettingsFault(f"${variable}", ".".join(segments).lower(), "there is no such field"))
        else:
            taken[path] = f"${variable}"
    return merged, taken, faults


def _near_miss(variable: str, defaults: Mapping[str, object]) -> tuple[str, str, str] | None:
    """`AUTHZ_STORE_URL` and `AUTHZ_STORE`: they would be ignored, and nobody would know."""
    name = variable.removeprefix(PREFIX).lower()
    if name == variable.lower() or "__" in name:
        return None
    if name in defaults and not isinstance(defaults[name], str):
        return name, "is not one value: set its fields, each by its path", ""
    for section, fields in defaults.items():
        field = name.removeprefix(f"{section}_")
        if isinstance(fields, dict) and field != name and field in fields:
            return f"{section}.{field}", "two underscores part the names of a path", f"AUTHZ_{section}__{field}".upper()
    return None


def _segments(variable: str, defaults: Mapping[str, object]) -> list[str]:
    name = variable.removeprefix(PREFIX)
    if name == variable or name in _OURS_BUT_NO_FIELD or _KUBERNETES.fullmatch(name):
        return []
    segments = name.split("__")
    scalar = len(segments) == 1 and isinstance(defaults.get(name.lower()), str)
    return segments if len(segments) > 1 or scalar else []  # AUTHZ_JWT_SECRET and the like are values, not fields


def _value(text: str) -> object:
    """As YAML would read it: `true`, `5`, `null`, `[a, b]`, `"5"`; every other text as it stands, a `#` included."""
    try:
        value = yaml.safe_load(text)
    except YAML_FAULTS:
        return text
    if value is None:
        return None if text.strip() in {"null", "~"} else text
    if isinstance(value, str):
        return value if text.lstrip().startswith(('"', "'")) else text
    return value if isinstance(value, bool | int | list) else text


def _put(root: dict[str, object], segments: list[str], value: object, defaults: object) -> Path | None:
    node: object = root
    path: list[str | int] = []
    for index, segment in enumerate(segments):
        at = _place(node, segment)
        if at is None:
            return None
        path.append(at)
        defaults = _child(defaults, at)
        if index == len(segments) - 1:
            _set(node, at, value)
            return tuple(path)
        node = _descend(node, at, defaults)
    return None


def _place(node: object, segment: str) -> str | int | None:
    """Where *segment* points in *node*: an index, or a name; map keys may have hyphens and capitals."""
    if isinstance(node, list):
        return int(segment) if re.fullmatch("[0-9]{1,4}", segment) and int(segment) < len(node) else None
    if not isinstance(node, dict):
        return None
    return next((key for key in node if str(key).upper().replace("-", "_") == segment), segment.lower())


def _descend(node: object, at: str | int, default: object) -> object:
    child = _child(node, at)
    if child is None:
        child = copy.deepcopy(default) if isinstance(default, dict | list) else {}
        _set(node, at, child)
    elif isinstance(child, str) and isinstance(default, dict) and "address" in default:
        child = {"address": child}  # a listener in its short form
        _set(node, at, child)
    return child


def _child(node: object, at: str | int) -> object:
    if isinstance(node, dict):
        return node.get(at)
    if isinstance(node, list) and isinstance(at, int) and at < len(node):
        return node[at]
    return None


def _set(node: object, at: str | int, value: object) -> None:
    if isinstance(node, dict | list):
        node[at] = value  # type: ignore[index]
