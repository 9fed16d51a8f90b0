"""Reading the configuration: file, environment, secrets; every fault of all three in one error."""

import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from authz.settings import build, crosscheck
from authz.settings.environment import YAML_FAULTS, override
from authz.settings.faults import Path as FieldPath
from authz.settings.faults import SettingsError, SettingsFault, from_validation, shown
from authz.settings.model import DEFAULT_PEPPER, SecretRef, Settings


DEFAULT_FILE: Final = "authz.yaml"
MAX_FILE_BYTES: Final = 1024 * 1024
MIN_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518 §3.2: as long as the hash
MIN_PEPPER_BYTES: Final = 32  # as long as the digest (RFC 2104 §3)
_WHENCE: Final = "every sidecar and command on a store has the same ('openssl rand -base64 48' makes a first one)"
_KEY_FILES: Final = (b"-----BEGIN", b"ssh-", b"ecdsa-")


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    Args:
        settings: What was configured, secrets as references.
        source: The file, or `defaults`.
        keyring_secrets: One for each entry of `keys.keyring`; empty where secrets were not asked for.
        peppers: As `keys.pepper`; empty too where none is set and no opaque keys are wanted.
    """

    settings: Settings
    source: str
    keyring_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    peppers: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def warnings(self) -> list[str]:
        """What is no fault, and hardly meant."""
        found = crosscheck.warnings(build.policy(self.settings).routes)
        return [f"{self.source}: {shown(path)}: {reason}" for path, reason in found]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without its two traps: keys that stand twice, and aliases that unfold into gigabytes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not supported", None)
        return super().compose_node(parent, index)


def find_file(named: str | None, environ: Mapping[str, str]) -> Path | None:
    """`--config`, else `$AUTHZ_CONFIG`, else `./authz.yaml` if it is there; None: defaults and environment alone."""
    if named or environ.get("AUTHZ_CONFIG"):
        return Path(named or environ["AUTHZ_CONFIG"])
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None


def load_settings(
    file: Path | None, environ: Mapping[str, str] | None = None, *, with_secrets: bool = True
) -> Configuration:
    """Raises: SettingsError — with every fault there is."""
    environ = os.environ if environ is None else environ
    source = str(file) if file else "defaults"
    defaults = Settings().model_dump(mode="json")
    raw, by_variable, faults = override(_read(file, environ), environ, defaults)

    def add(path: FieldPath, reason: str, nearest: str = "") -> None:
        variable = next((v for p, v in by_variable.items() if path[: len(p)] == p or p[: len(path)] == path), source)
        faults.append(SettingsFault(variable, shown(path), reason, nearest))

    found = list(crosscheck.crosscheck(_completed(raw, defaults)))
    settings = None
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        told = {path for path, _, _ in found}  # better than the models can
        found = [*(fault for fault in from_validation(error, Settings) if fault[0] not in told), *found]
    for path, reason, nearest in found:
        add(path, reason, nearest)
    secrets: tuple[bytes, ...] = ()
    peppers: tuple[bytes, ...] = ()
    if with_secrets and settings and not faults:
        secrets = _keyring_secrets(settings, environ, add)
        peppers = _peppers(settings, environ, add)
    if faults or settings is None:
        raise SettingsError(faults)
    return Configuration(settings, source, secrets, peppers)


def _completed(raw: dict[str, object], defaults: dict[str, Any]) -> dict[str, object]:
    """*raw* with its defaults: section by section, but for the tables that a file replaces as a whole."""
    completed: dict[str, object] = {**defaults, **raw}
    for section, default in defaults.items():
        given = raw.get(section)
        if isinstance(default, dict) and isinstance(given, dict) and section not in {"scopes", "limits"}:
            completed[section] = {**default, **given}
    return completed


def _keyring_secrets(settings: Settings, environ: Mapping[str, str], add: Any) -> tuple[bytes, ...]:
    secrets = []
    for index, entry in enumerate(settings.keys.keyring):
        path = ("keys", "keyring", index, "secret")
        try:
            secret = read_secret(entry.secret, environ)
        except ValueError as exc:
            add(path, str(exc))
            continue
        if len(secret) < (least := MIN_SECRET_BYTES[entry.algorithm]):
            add(path, f"{entry.algorithm} needs at least {least} bytes (RFC 7518 §3.2), this has {len(secret)}")
        if secret.startswith(_KEY_FILES):  # what is public is no secret: anybody could sign (RFC 8725 §2.1)
            add(path, f"{entry.algorithm} needs a secret, this is a certificate or a key pair's file")
        secrets.append(secret)
    return tuple(secrets)


def _peppers(settings: Settings, environ: Mapping[str, str], add: Any) -> tuple[bytes, ...]:
    """The default one need not be set where opaque keys are not wanted."""
    keys = settings.keys
    peppers = []
    for index, entry in enumerate(keys.pepper):
        path = ("keys", "pepper", index)
        if keys.pepper == DEFAULT_PEPPER and keys.kind != "opaque" and not environ.get(str(entry.env)):
            continue
        try:
            pepper = read_secret(entry, environ)
        except ValueError as exc:
            add(path, str(exc))
            continue
        if len(pepper) < MIN_PEPPER_BYTES:
            add(path, f"needs at least {MIN_PEPPER_BYTES} bytes, this has {len(pepper)}")
        peppers.append(pepper)
    return tuple(peppers)


def read_secret(ref: SecretRef, environ: Mapping[str, str]) -> bytes:
    """
    The secret's bytes; a file's last line end is not part of it.

    Raises: ValueError — not set, not readable, empty.
    """
    if ref.env is not None:
        secret = environ.get(ref.env, "").encode("utf-8", "surrogateescape")
        if not secret:
            raise ValueError(f"the environment variable {ref.env} is not set: {_WHENCE}")
        return secret
    if ref.file is None:
        raise ValueError("must say either env or file")
    try:
        secret = ref.file.read_bytes()
    except OSError as exc:
        raise ValueError(f"{ref.file}: {exc.strerror}") from exc
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise ValueError(f"{ref.file} is empty")
    return secret


def _read(file: Path | None, environ: Mapping[str, str]) -> dict[str, object]:
    if file is None:
        return {}
    try:
        text = file.read_bytes()
        if len(text) > MAX_FILE_BYTES:
            raise SettingsError([SettingsFault(str(file), "", f"larger than {MAX_FILE_BYTES} bytes")])
        raw = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, stricter
    except OSError as exc:
        variable = environ.get("AUTHZ_CONFIG")
        named = " ($AUTHZ_CONFIG names it)" if variable and file == Path(variable) else ""
        raise SettingsError([SettingsFault(str(file), "", f"{exc.strerror or exc}{named}")]) from exc
    except YAML_FAULTS as exc:
        raise SettingsError([SettingsFault(str(file), "", _yaml_fault(exc))]) from exc
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise SettingsError([SettingsFault(str(file), "", "must be a mapping of fields, such as 'store:'")])
    return raw


def _yaml_fault(exc: Exception) -> str:
    mark = getattr(exc, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{getattr(exc, 'problem', None) or 'is not YAML'}"
