"""
Writes profiles/NAME.yaml, whole, for every overlays/NAME.yaml: envoy.yaml with that overlay on it.

    python profiles.py

An overlay is a JSON merge patch (RFC 7386): mappings are merged, `null` removes, everything else replaces. One thing is
added. Where envoy.yaml has a list and the overlay a mapping, the mapping's keys tell which of the items are meant: by
their `name`; of the mappers of local replies by the `name` or `runtime_key` of their filters; by their place (from 0)
where they have none. A name that is not there is a new item, put before the others, as the first route that matches
counts; with `after: NAME` behind that one; with `like: NAME` behind it as well, and made from what it has become by
then.
"""
# ruff: noqa: INP001 -- it stands alone

from pathlib import Path
from typing import Any, Final

import yaml


FOLDER: Final = Path(__file__).parent
HEAD: Final = """\
# Envoy for the profile {name}; authz's side is deploy/profiles/{name}.yaml. Made by profiles.py from envoy.yaml, where
# the reasons for each line stand, and overlays/{name}.yaml: change those, and run `make envoy-variant`.
"""


class _Dumper(yaml.SafeDumper):
    """Nothing is said by reference."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    """PyYAML writes the text `n` bare, and Envoy reads that as `false`."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if text.lower() in {"y", "n"} else None)


_Dumper.add_representer(str, _text)


def patched(target: Any, patch: Any) -> Any:
    """Raises: ValueError — a place that the list does not have, an item that cannot have a name, or a name twice."""
    if not isinstance(patch, dict):
        return patch
    if isinstance(target, list):
        return _items(target, {str(key): change for key, change in patch.items()})
    merged = dict(target) if isinstance(target, dict) else {}
    for key, change in patch.items():
        if change is None:
            merged.pop(key, None)
        else:
            merged[key] = patched(merged.get(key), change)
    return merged


def _items(target: list[Any], patch: dict[str, Any]) -> list[Any]:
    named = {_key(item, place): item for place, item in enumerate(target)}
    if len(named) < len(target):
        raise ValueError(f"two items have one name, among {', '.join(named)}")
    added = []
    behind: dict[str, list[Any]] = {name: [] for name in named}
    for key, change in patch.items():
        if key in named:
            named[key] = None if change is None else patched(named[key], change)
        elif key.isdigit() or change is None:
            raise ValueError(f"there is no item {key}")
        elif target and not any(isinstance(item, dict) and "name" in item for item in target):
            raise ValueError(
                f"there is no item {key}, and a new one cannot be named: no item of this list has a `name`"
            )
        else:
            after = change.get("like") or change.get("after")
            whole = patched(named.get(change.get("like")), {**change, "like": None, "after": None, "name": None})
            item = {"name": key, **whole}
            if after is None:
                added.append(item)
            elif named.get(after) is None:
                raise ValueError(f"there is no item {after}")
            else:
                behind[after].append(item)
    kept = (each for name, item in named.items() for each in (item, *behind[name]))
    return [*added, *(item for item in kept if item is not None)]


def _key(item: Any, place: int) -> str:
    match item:
        case {"name": name}:
            return str(name)
        case {"filter": {"extension_filter": {"name": name}}}:
            return str(name)
        case {"filter": {"status_code_filter": {"comparison": {"value": {"runtime_key": name}}}}}:
            return str(name)
        case _:
            return str(place)


def profile(name: str) -> str:
    base, overlay = (yaml.safe_load((FOLDER / path).read_text()) for path in ("envoy.yaml", f"overlays/{name}.yaml"))
    whole = yaml.dump(patched(base, overlay), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return f"{HEAD.format(name=name)}\n{whole}"


def names() -> list[str]:
    return sorted(path.stem for path in (FOLDER / "overlays").glob("*.yaml"))


if __name__ == "__main__":
    (FOLDER / "profiles").mkdir(exist_ok=True)
    for each in names():
        (FOLDER / "profiles" / f"{each}.yaml").write_text(profile(each))
