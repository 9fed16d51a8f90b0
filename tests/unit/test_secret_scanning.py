"""
The rules of `deploy/secret-scanning` find every key wherever it stands, and nothing that is almost one.

The regular expressions are read from the files that users have, and run by RE2, as gitleaks and TruffleHog, which are
written in Go, have them; around them stands what these two do with a match. detect-secrets runs as it is.

What a regular expression cannot see: whether a checksum fits (one character changed, and it does not), and what a JWT's
header and payload say. Near misses that have no other fault are `shaped`: gitleaks and TruffleHog report them,
detect-secrets does not. What no scanner can see is whether a JWT was signed by our keyring: there are no near misses of
JWT keys with another character in the payload or the signature.
"""

import hashlib
import json
import random
import re
import shutil
import string
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count, cycle, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import re2
import yaml
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file, scan_line
from detect_secrets.settings import transient_settings

from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.core.keyformat import BASE62, CHECKSUM_CHARS, OPAQUE_CHARS, SECRET_CHARS, checksum, opaque_token
from authz.ports import NewToken
from tests.support.tokens import CLAIMS, HEADER, K2, K4, NOW_S, PLAIN, Json, forge, segment


ROOT: Final = Path(__file__).parents[2]
FILES: Final = ROOT / "deploy" / "secret-scanning"
PAGE: Final = ROOT / "docs" / "secret-scanning.md"
PLUGIN: Final = "detect_secrets_authz.py"
OPAQUE_TYPE: Final = "authz API key"
JWT_TYPE: Final = "authz API key (JWT)"
CALLS: Final = "detect_secrets.filters.heuristic.is_indirect_reference"  # drops lines with an assigned call
PREFIX: Final = "sk-live-"
NEAR_MISSES: Final = 10_000
RUN: Final = string.ascii_letters + string.digits + "-_"  # what may not stand right before or after a key

Scan = Callable[[str], set[str]]
"""The keys that a scanner finds in a text."""


def secret(chance: random.Random) -> str:
    return "".join(chance.choices(BASE62, k=SECRET_CHARS))


def opaque(chance: random.Random, prefix: str = PREFIX) -> str:
    return opaque_token(prefix, secret(chance))


def signed(key: VerificationKey, number: int = 0) -> str:
    """The JWT of a key of ours, the least that one holds."""
    new = NewToken(f"key_{number:08x}00abcdefghij", "user-1", "", (), NOW_S, None)
    return JwtSigner(Keyring((key,))).sign(new)


def signed_at_length(key: VerificationKey) -> str:
    new = NewToken("key_1a2b3c4d00abcdefghij.2", "Zoë?>" * 30, "acme", ("read-only", "admin"), NOW_S, NOW_S + 3600)
    return JwtSigner(Keyring((key,)), "https://api.example.com", "authz+jwt").sign(new)


def jwt_tokens() -> Iterator[str]:
    """Of every algorithm, short and long; HS384's end with any character, `-` and `_` among them."""
    for key in (PLAIN, K2, K4):
        yield signed(key)
        yield signed_at_length(key)
    for last in "-_":
        yield next(token for token in (signed(K4, number) for number in count()) if token.endswith(last))


def keys(prefix: str = PREFIX) -> list[str]:
    chance = random.Random(1)
    return [opaque(chance, prefix) for _ in range(20)] + [prefix + token for token in jwt_tokens()]


KEYS: Final = keys()


def gitleaks(folder: Path) -> Scan:
    """As gitleaks does: keywords, all matches, the group found anew within the match, then the allowlists."""
    rules = tomllib.loads((folder / "gitleaks.toml").read_text())["rules"]
    regexes = {rule["id"]: re2.compile(rule["regex"]) for rule in rules}

    def allowed(rule: dict[str, Any], match: str, found: str) -> bool:
        return any(
            re2.search(regex, match if allowlist.get("regexTarget") == "match" else found)
            for allowlist in rule.get("allowlists", ())
            for regex in allowlist["regexes"]
        )

    def scan_rule(rule: dict[str, Any], text: str) -> Iterator[str]:
        if any(keyword.lower() in text.lower() for keyword in rule["keywords"]):
            for whole in regexes[rule["id"]].finditer(text):
                match = whole[0].strip("\n")
                found = regexes[rule["id"]].search(match)[rule["secretGroup"]]
                if not allowed(rule, match, found):
                    yield found

    return lambda text: set(chain.from_iterable(scan_rule(rule, text) for rule in rules))


def trufflehog(folder: Path) -> Scan:
    """As TruffleHog does: what is around a keyword, all matches in it, their first group, then the exclusions."""
    detectors = yaml.safe_load((folder / "trufflehog.yaml").read_text())["detectors"]
    regexes = {detector["name"]: re2.compile(detector["regex"]["key"]) for detector in detectors}

    def excluded(detector: dict[str, Any], field: str, text: str) -> bool:
        return any(re2.search(regex, text) for regex in detector.get(field, ()))

    def scan_detector(detector: dict[str, Any], text: str) -> Iterator[str]:
        for part in chain.from_iterable(around(keyword, text) for keyword in detector["keywords"]):
            for match in regexes[detector["name"]].finditer(part):
                if not excluded(detector, "exclude_regexes_match", match[0]) and not excluded(
                    detector, "exclude_regexes_capture", match[1]
                ):
                    yield match[1]

    return lambda text: set(chain.from_iterable(scan_detector(detector, text) for detector in detectors))


def around(keyword: str, text: str) -> Iterator[str]:
    """512 characters before each *keyword* and 1,000 from it on; those that meet as one."""
    start = end = 0
    for found in re.finditer(re.escape(keyword), text, re.IGNORECASE):
        if found.start() - 512 > end:
            yield text[start:end]
            start = found.start() - 512
        end = found.start() + 1000
    yield text[start:end]


@contextmanager
def detect_secrets(folder: Path) -> Iterator[Scan]:
    """The real one, line by line, with our two plugins and its filters, save for the one that the page disables."""
    get_mapping_from_secret_type_to_class.cache_clear()
    names = ("AuthzOpaqueKeyDetector", "AuthzJwtKeyDetector")
    plugins = [{"name": name, "path": f"file://{folder / PLUGIN}"} for name in names]
    with transient_settings({"plugins_used": plugins}) as settings:
        settings.disable_filters(CALLS)
        yield lambda text: {str(found.secret_value) for line in text.splitlines() for found in scan_line(line)}
    get_mapping_from_secret_type_to_class.cache_clear()


@contextmanager
def scanner(name: str, folder: Path) -> Iterator[Scan]:
    if name == "detect-secrets":
        with detect_secrets(folder) as scan:
            yield scan
    else:
        yield {"gitleaks": gitleaks, "trufflehog": trufflehog}[name](folder)


@pytest.fixture(params=["gitleaks", "trufflehog", "detect-secrets"])
def scan(request: pytest.FixtureRequest) -> Iterator[Scan]:
    with scanner(request.param, FILES) as made:
        yield made


HERE: Final = "¤"
LINES: Final = (
    "¤",
    "  ¤  ",
    '"¤"',
    "'¤'",
    "`¤`",
    "key: ¤",
    'key: "¤" # of the staging system',
    "- ¤",
    "OPENAI_API_KEY=¤",
    "export OPENAI_API_KEY='¤'",
    "set OPENAI_API_KEY=¤&& run",
    '{"api_key": "¤", "model": "small"}',
    '{"line": "{\\"api_key\\":\\"¤\\"}"}',
    '{"log": "first\\n¤\\nlast"}',
    '{"url": "https://api.example.com/?key\\u003d¤\\u0026page=2"}',
    "b'\\x3d¤\\x0a'",
    "https://api.example.com/v1/models?api_key=¤",
    "https://api.example.com/v1/models?api_key=¤&page=2#top",
    "https://api.example.com/v1/¤/models",
    "https://user:¤@api.example.com/",
    "authorization=Bearer%20¤%0A",
    "Authorization: Bearer ¤",
    'curl -H "Authorization: Bearer ¤" https://api.example.com/',
    'client = OpenAI(api_key="¤", base_url=BASE_URL)',
    'os.environ["OPENAI_API_KEY"] = "¤"',
    "assert key == f'¤'",
    "<key>¤</key>",
    "<a href='#¤'>",
    "(¤)",
    "My key is ¤.",
    "My key is ¤, is it not?",
    "«¤»",
    "ключ¤ключ",
    "a,¤,c",
    "a\t¤\tc",
    "¤\r",
    "key=¤; path=/",
    "@¤@",
    "x/¤/¤",
)


@pytest.mark.parametrize("line", LINES)
def test_keys_are_found_wherever_they_stand(scan: Scan, line: str) -> None:
    for key in KEYS:
        assert scan(line.replace(HERE, key)) == {key}


@pytest.mark.parametrize("name", ["gitleaks", "detect-secrets"])
def test_long_keys_are_found(name: str) -> None:
    """Up to the 8,192 characters that a credential may have; TruffleHog looks no further than 1,000."""
    key = PREFIX + forge(payload=CLAIMS | {"scope": " ".join(f"models:{number}" for number in range(500))})
    assert 6000 < len(key) <= 8192

    with scanner(name, FILES) as scan:
        assert scan(f"'{key}'") == {key}


@pytest.mark.parametrize(
    "between", [",", " ", ";", "|", "\t", ", ", "','", "\n", "\r\n", "\n\n", "\\n", "%20", ":", "."]
)
def test_keys_next_to_one_another_are_all_found(scan: Scan, between: str) -> None:
    """One character between two keys is enough; none is not."""
    assert scan(between.join(KEYS)) == set(KEYS)


def test_keys_in_a_file_are_found(scan: Scan) -> None:
    """Of a million characters, in which they stand far from one another."""
    chance = random.Random(2)
    chaff = ("".join(chance.choices(RUN + " .=\"'", k=1_000_000 // len(KEYS))) for _ in KEYS)

    assert scan("\n".join(chain.from_iterable(zip(chaff, KEYS, strict=True)))) == set(KEYS)


class NearMiss(NamedTuple):
    kind: str
    line: str
    shaped: bool


def replaced(text: str, at: int, by: str) -> str:
    return text[:at] + by + text[at + 1 :]


def changed(chance: random.Random) -> str:
    key = opaque(chance)
    at = chance.randrange(len(PREFIX), len(key))
    return replaced(key, at, chance.choice(BASE62.replace(key[at], "")))


def swapped(chance: random.Random) -> str:
    key = opaque(chance)
    at = chance.choice([at for at in range(len(PREFIX), len(key) - 1) if key[at] != key[at + 1]])
    return key[:at] + key[at + 1] + key[at] + key[at + 2 :]


def checked_without_prefix(chance: random.Random) -> str:
    body = secret(chance)
    return PREFIX + body + checksum(body)


def in_another_alphabet(chance: random.Random) -> str:
    key = opaque(chance)
    return replaced(key, chance.randrange(len(PREFIX), len(key)), chance.choice("-_+/=.,:*~ é７ı"))


def prolonged_within(chance: random.Random) -> str:
    key = opaque(chance)
    at = chance.randrange(len(PREFIX), len(key))
    return key[:at] + chance.choice(RUN) + key[at:]


OTHER_PREFIXES: Final = (
    *("sk_live_", "sk-live_", "sk_live-", "SK-LIVE-", "Sk-live-", "sk-Live-", "sk-test-", "pk-live-", "rk-live-"),
    *(
        "sk-l\u0456ve-",
        "sk-liv-",
        "k-live-",
        "sk--live-",
        "sklive-",
        "live-",
        "sk-live",
        "sk-live--",
        "sk-proj-",
        "sk-",
        "",
    ),
)

OPAQUE_SHAPED: Final[dict[str, Callable[[random.Random], str]]] = {
    "one character changed": changed,
    "two neighbours swapped": swapped,
    "another key's checksum": lambda chance: opaque(chance)[:-CHECKSUM_CHARS] + opaque(chance)[-CHECKSUM_CHARS:],
    "checksum without the prefix": checked_without_prefix,
    "checksum backwards": lambda chance: (key := opaque(chance))[:-CHECKSUM_CHARS] + key[: -CHECKSUM_CHARS - 1 : -1],
    "checksum in front": lambda chance: PREFIX + (key := opaque(chance))[-CHECKSUM_CHARS:] + key[8:-CHECKSUM_CHARS],
    "random characters": lambda chance: PREFIX + "".join(chance.choices(BASE62, k=OPAQUE_CHARS)),
    "a number": lambda chance: PREFIX + "".join(chance.choices("123456789", k=OPAQUE_CHARS)),
}
OPAQUE_UNSHAPED: Final[dict[str, Callable[[random.Random], str]]] = {
    "cut at the end": lambda chance: opaque(chance)[: -chance.randint(1, OPAQUE_CHARS)],
    "cut after the prefix": lambda chance: PREFIX + opaque(chance)[len(PREFIX) + chance.randint(1, OPAQUE_CHARS) :],
    "cut in front": lambda chance: opaque(chance)[chance.randint(1, len(PREFIX)) :],
    "prolonged at the end": lambda chance: opaque(chance) + "".join(chance.choices(RUN, k=chance.randint(1, 20))),
    "prolonged in front": lambda chance: chance.choice(RUN) + opaque(chance),
    "prolonged within": prolonged_within,
    "in another alphabet": in_another_alphabet,
    "no checksum": lambda chance: opaque(chance)[:-CHECKSUM_CHARS],
    "another prefix": lambda chance: opaque(chance, chance.choice(OTHER_PREFIXES)),
    "another prefix put in place of ours": lambda chance: chance.choice(OTHER_PREFIXES) + opaque(chance)[len(PREFIX) :],
    "the prefix twice": lambda chance: PREFIX + opaque(chance),
    "twice": lambda chance: (key := opaque(chance)) + key,
    "a display prefix": lambda chance: PREFIX + chance.randbytes(4).hex(),
    "a placeholder": lambda chance: (
        PREFIX + chance.choice(("…", "...", "xxxx", "x" * 49, "X" * 49, "0" * 49, "YOUR_KEY"))
    ),
}


def token(chance: random.Random, header: Json | None = None, payload: Json | None = None, by: str = "") -> str:
    """A good one, unless something else is given."""
    by = by or chance.choice(("HS256", "HS384", "HS512"))
    claims = CLAIMS | {"jti": f"key_{chance.getrandbits(32):08x}00abcdefghij"}
    return forge(HEADER | {"alg": by} if header is None else header, claims if payload is None else payload, by=by)


def claiming(**claims: object) -> Callable[[random.Random], str]:
    """Other claims; those given as None are left out."""
    payload = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    return lambda chance: PREFIX + token(chance, payload=payload)


def heading(by: str = "", **members: object) -> Callable[[random.Random], str]:
    """A key whose header has other members; those given as None are left out."""
    header = {name: value for name, value in (HEADER | members).items() if value is not None}
    return lambda chance: PREFIX + token(chance, header, by=by)


def parted(change: Callable[[random.Random, list[str]], list[str]], by: str = "") -> Callable[[random.Random], str]:
    """A key whose parts went through *change*."""
    return lambda chance: PREFIX + ".".join(change(chance, token(chance, by=by).split(".")))


def without(part: int) -> Callable[[random.Random], str]:
    return parted(lambda _, parts: parts[:part] + parts[part + 1 :])


def emptied(part: int) -> Callable[[random.Random], str]:
    return parted(lambda _, parts: [*parts[:part], "", *parts[part + 1 :]])


def spoilt(part: int) -> Callable[[random.Random], str]:
    """A character of another alphabet among the first of a part."""
    return parted(
        lambda chance, parts: [
            *parts[:part],
            replaced(parts[part], chance.randrange(3, 20), chance.choice("+/=,:*~ é７")),
            *parts[part + 1 :],
        ]
    )


def bits_to_spare(by: str, last: str) -> Callable[[random.Random], str]:
    """The last character of the signature is one that no encoder makes."""
    others = [char for char in RUN if char not in last]
    return parted(lambda chance, parts: [*parts[:2], parts[2][:-1] + chance.choice(others)], by)


JWT_SHAPED: Final[dict[str, Callable[[random.Random], str]]] = {
    "alg none": heading(alg="none"),
    "alg RS256": heading(alg="RS256"),
    "alg in small letters": heading(alg="hs256"),
    "alg a number": heading(alg=256),
    "alg a list": heading(alg=["HS256"]),
    "no alg": heading(alg=None),
    "alg HS256, signature of HS384": heading("HS384", alg="HS256"),
    "alg HS256, signature of HS512": heading("HS512", alg="HS256"),
    "alg HS512, signature of HS256": heading("HS256", alg="HS512"),
    "no sub": claiming(sub=None),
    "sub a number": claiming(sub=1),
    "no jti": claiming(jti=None),
    "jti a list": claiming(jti=["key_1a2b3c4d00abcdefghij"]),
    "header cut": parted(lambda chance, parts: [parts[0][: -chance.randint(1, 9)], *parts[1:]]),
    "payload cut": parted(lambda chance, parts: [parts[0], parts[1][: -chance.randint(1, 9)], parts[2]]),
    "header no JSON": lambda chance: PREFIX + token(chance, '{"a' + secret(chance)),
    "payload no text": lambda chance: PREFIX + token(chance, payload=b'{"a\xff' + chance.randbytes(40)),
    "random parts": parted(lambda chance, parts: ["eyJ" + secret(chance), "eyJ" + secret(chance), parts[2]]),
}
JWT_UNSHAPED: Final[dict[str, Callable[[random.Random], str]]] = {
    "no header": without(0),
    "no payload": without(1),
    "no signature": without(2),
    "header empty": emptied(0),
    "payload empty": emptied(1),
    "signature empty": emptied(2),
    "header alone": parted(lambda _, parts: parts[:1]),
    "cut in the signature": parted(lambda chance, parts: [*parts[:2], parts[2][: -chance.randint(1, 20)]]),
    "prolonged at the end": lambda chance: (
        PREFIX + token(chance) + "".join(chance.choices(RUN, k=chance.randint(1, 20)))
    ),
    "prolonged in front": lambda chance: chance.choice(RUN) + PREFIX + token(chance),
    "header in another alphabet": spoilt(0),
    "payload in another alphabet": spoilt(1),
    "signature in another alphabet": spoilt(2),
    "HS256, bits to spare": bits_to_spare("HS256", "AEIMQUYcgkosw048"),
    "HS512, bits to spare": bits_to_spare("HS512", "AQgw"),
    "signature of RS256": parted(lambda chance, parts: [*parts[:2], "".join(chance.choices(RUN, k=342))]),
    "encrypted": parted(lambda chance, parts: [parts[0], secret(chance), "iv" * 8, parts[1], "tag" * 7]),
    "padding within": parted(lambda _, parts: [parts[0] + "==", parts[1] + "=", parts[2]]),
    "dots doubled": lambda chance: PREFIX + token(chance).replace(".", ".."),
    "no dots": lambda chance: PREFIX + token(chance).replace(".", chance.choice(",:;/-_ ")),
    "header with white space": lambda chance: PREFIX + token(chance, '{ "alg":"HS256"}', by="HS256"),
    "payload with white space": lambda chance: PREFIX + token(chance, payload=b'{\n"sub":"u","jti":"j"}'),
    "payload a list": lambda chance: PREFIX + token(chance, payload='[{"sub":"u","jti":"j"}]'),
    "another prefix": lambda chance: chance.choice(OTHER_PREFIXES) + token(chance),
    "the prefix twice": lambda chance: PREFIX + PREFIX + token(chance),
    "the prefix within": lambda chance: segment(HEADER) + "." + PREFIX + token(chance).partition(".")[2],
    "an example": lambda _: PREFIX + "eyJhbGciOi….eyJzdWIiOi….…",
}
KINDS: Final = [
    *((f"opaque: {kind}", make, True) for kind, make in OPAQUE_SHAPED.items()),
    *((f"opaque: {kind}", make, False) for kind, make in OPAQUE_UNSHAPED.items()),
    *((f"JWT: {kind}", make, True) for kind, make in JWT_SHAPED.items()),
    *((f"JWT: {kind}", make, False) for kind, make in JWT_UNSHAPED.items()),
]


@pytest.fixture(scope="module")
def near_misses() -> list[NearMiss]:
    """As many of each kind, each somewhere in a line."""
    chance = random.Random(3)
    return [
        NearMiss(kind, chance.choice(LINES).replace(HERE, make(chance)), shaped)
        for kind, make, shaped in islice(cycle(KINDS), NEAR_MISSES)
    ]


@pytest.mark.parametrize("name", ["gitleaks", "trufflehog"])
def test_regular_expressions_and_near_misses(name: str, near_misses: list[NearMiss]) -> None:
    """They report those whose only fault is one that a regular expression cannot see, and no other."""
    with scanner(name, FILES) as scan:
        wrong = [miss for miss in near_misses if bool(scan(miss.line)) != miss.shaped]

    assert (len(near_misses), wrong) == (NEAR_MISSES, [])


def test_detect_secrets_and_near_misses(tmp_path: Path, near_misses: list[NearMiss]) -> None:
    """None is reported, and what is a key is, in the same file."""
    file = tmp_path / "near-misses.txt"
    file.write_text("\n".join(chain((miss.line for miss in near_misses), KEYS)))

    with scanner("detect-secrets", FILES):
        found = {(secret.line_number, secret.secret_value) for secret in scan_file(str(file))}

    first = len(file.read_text().splitlines()) - len(KEYS)
    assert found == {(first + number, key) for number, key in enumerate(KEYS, 1)}


def test_deep_json_is_no_key_and_no_crash() -> None:
    deep = PREFIX + forge(payload='{"a":' + "[" * 5000)

    with scanner("detect-secrets", FILES) as scan:
        assert scan(deep) == set()


def test_a_forged_signature_is_seen_by_the_keyring_alone(scan: Scan) -> None:
    """So it is reported: whoever scans has no keyring."""
    forged = PREFIX + forge(secret=b"a secret of somebody else's, 32 bytes")

    assert scan(f"'{forged}'") == {forged}


def report(folder: Path, *options: str) -> list[dict[str, Any]]:
    """What detect-secrets' command line says of a folder. `--no-verify`: its other plugins would ask their vendors."""
    plugin = str(FILES / PLUGIN)
    command = [
        sys.executable,
        "-m",
        "detect_secrets",
        "scan",
        "--all-files",
        "--no-verify",
        "-p",
        plugin,
        *options,
        ".",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)["results"]
    return [secret for secrets in found.values() for secret in secrets if secret["type"] in {OPAQUE_TYPE, JWT_TYPE}]


def digests(keys: list[str]) -> set[str]:
    """As detect-secrets writes them into a baseline."""
    return {hashlib.sha1(key.encode()).hexdigest() for key in keys}


def test_command_line_of_detect_secrets(tmp_path: Path, near_misses: list[NearMiss]) -> None:
    (tmp_path / "keys.txt").write_text("\n".join(KEYS[:3]))
    (tmp_path / "config.yaml").write_text(f"api:\n  key: {KEYS[3]}\n  other: {KEYS[-1]}\n")
    (tmp_path / "config.ini").write_text(f"[api]\nkey = {KEYS[4]}\n")
    (tmp_path / "client.py").write_text(f'client = OpenAI(api_key="{KEYS[-2]}")\n')
    (tmp_path / "none.txt").write_text("\n".join(miss.line for miss in near_misses[:1000]))

    found = report(tmp_path, "--disable-filter", CALLS)
    assert {secret["hashed_secret"] for secret in found} == digests([*KEYS[:5], *KEYS[-2:]])
    assert {secret["type"] for secret in found} == {OPAQUE_TYPE, JWT_TYPE}

    # without the option that the page tells: detect-secrets drops lines with an assigned call, whatever is in them
    assert {secret["hashed_secret"] for secret in report(tmp_path)} == digests([*KEYS[:5], KEYS[-1]])


def leaky(folder: Path, near_misses: list[NearMiss]) -> Path:
    """A folder with all the keys in all places, and the near misses that a regular expression can tell."""
    leaks = folder / "leaks"
    leaks.mkdir()
    (leaks / "keys.txt").write_text("\n".join(line.replace(HERE, key) for line in LINES for key in KEYS))
    (leaks / "none.txt").write_text("\n".join(miss.line for miss in near_misses if not miss.shaped))
    return leaks


@pytest.mark.skipif(shutil.which("gitleaks") is None, reason="there is no gitleaks on PATH: its rules ran by RE2 alone")
def test_command_line_of_gitleaks(tmp_path: Path, near_misses: list[NearMiss]) -> None:
    out = tmp_path / "report.json"
    rules = str(FILES / "gitleaks.toml")
    options = ["--config", rules, "--report-format", "json", "--report-path", str(out), "--exit-code", "0"]
    subprocess.run(["gitleaks", "dir", str(leaky(tmp_path, near_misses)), *options], check=True, timeout=60)

    found = [leak for leak in json.loads(out.read_text()) if leak["RuleID"] in {"authz-opaque-key", "authz-jwt-key"}]
    assert {leak["Secret"] for leak in found} == set(KEYS)


@pytest.mark.skipif(
    shutil.which("trufflehog") is None, reason="there is no trufflehog on PATH: its rules ran by RE2 alone"
)
def test_command_line_of_trufflehog(tmp_path: Path, near_misses: list[NearMiss]) -> None:
    options = ["--config", str(FILES / "trufflehog.yaml"), "--no-verification", "--no-update", "--json"]
    command = ["trufflehog", "filesystem", str(leaky(tmp_path, near_misses)), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"SourceMetadata"')]
    assert {leak["Raw"] for leak in found if leak["DetectorName"] == "CustomRegex"} == set(KEYS)


@pytest.mark.parametrize("name", ["gitleaks", "trufflehog", "detect-secrets"])
@pytest.mark.parametrize("prefix", ["acme-live-", "a1_", "0-"])
def test_another_prefix(name: str, prefix: str, tmp_path: Path) -> None:
    """Replacing `sk-live-` throughout is all that it takes."""
    for file in FILES.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_text(file.read_text().replace(PREFIX, prefix))

    with scanner(name, tmp_path) as scan:
        for key in keys(prefix):
            assert scan(f"key: {key}") == {key}
        assert scan("\n".join(KEYS)) == set()


@pytest.mark.parametrize("prefix", ["sk-live-", "sk_live_"])
def test_underscores_would_set_off_stripes_detectors(prefix: str) -> None:
    with transient_settings({"plugins_used": [{"name": "StripeDetector"}]}):
        found = list(scan_line(opaque(random.Random(4), prefix)))

    assert bool(found) == (prefix == "sk_live_")


def test_the_pages_test_vector() -> None:
    """Anybody who follows the page arrives at our checksum; its line is marked for the scanners to leave out."""
    page = PAGE.read_text()
    body = "ThisIsNotAKeyItIsTheTestVectorOfTheChecksum"
    line = next(line for line in page.splitlines() if opaque_token(PREFIX, body) in line)

    assert f"`{PREFIX}{body}`" in page
    assert f"`{checksum(PREFIX + body)}`" in page
    assert "gitleaks:allow" in line
    with scanner("detect-secrets", FILES) as scan:
        assert scan(line) == set()
        assert scan(line.partition("<!--")[0]) == {opaque_token(PREFIX, body)}


def test_the_pages_regular_expressions(near_misses: list[NearMiss]) -> None:
    """They are the files' rule, save for text that was escaped."""
    fence = re.search(r"```regex\n(.+)\n(.+)\n```", PAGE.read_text())
    assert fence is not None
    opaque_form, jwt_form = (re.compile(form) for form in fence.groups())

    assert [bool(opaque_form.fullmatch(key)) for key in KEYS] == ["." not in key for key in KEYS]
    assert [bool(jwt_form.fullmatch(key)) for key in KEYS] == ["." in key for key in KEYS]
    for miss in near_misses:
        if not miss.shaped and PREFIX + "x" not in miss.line.lower() and PREFIX + "0" not in miss.line:
            assert not opaque_form.search(miss.line)
            assert not jwt_form.search(miss.line)
