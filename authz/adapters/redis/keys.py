"""
Every name in the store. The partition is the hash tag, so whatever a tenant owns shares one slot of a cluster.

    authz:store              hash: id, partitions, state       whose store this is, and into how many parts it is cut
    authz:prefix:HEX8        string: key id                    display prefixes given away
    authz:request:HEX        string: sealed answer             what a `request_id` was answered, for ten minutes
    authz:{P}:m              string: store id                  marker; gone: the partition was wiped
    authz:{P}:i              string: µs                        the latest `issued` given in the partition
    authz:{P}:k              sorted set: key id by µs issued   for lists
    authz:{P}:n              sorted set: user id by µs         for lists
    authz:{P}:z              stream: events                    who changed what, the last thousand
    authz:{P}:r:ID           string: record                    see proto/authz/store/v1/record.proto
    authz:{P}:v:ID           string: whole number              version; negative: revoked
    authz:{P}:t:ID           string: "µs reason"               when and why it was revoked
    authz:{P}:l:ID           string: µs                        last used, to the minute; exact once it is settled
    authz:{P}:e:ID           string: sealed token              where `keys.retain_token` is on
    authz:{P}:p:ID           string: argon2id hash             a user's password
    authz:{P}:a              string: µs                        everything issued up to then is revoked
    authz:{P}:x:SUBJECT      string: µs                        the same for a subject
    authz:{P}:w:WORKSPACE    string: µs                        the same for a workspace
    authz:{P}:y:WORKSPACE␀SUBJECT  string: µs                  the same for a subject within a workspace
    authz:{P}:b:WORKSPACE␀SUBJECT  string: user id             who is being removed: nobody makes keys for the subject
    authz:{P}:g:LIMIT:OWNER  string: buckets                   gone: full
    authz:{P}:s:PROCESS:BLOCK  bitmap: decisions               those of a sidecar that are settled; gone: too old to be
    authz:{P}:c:OWNER        hash: counts by model             since the first request; OWNER as in `owners`
    authz:{P}:o:HOUR         hash: counts by key and model     what was used in an hour; HOUR: since 1970
    authz:{P}:d:DAY          hash: counts by key and model     the same for a day
    authz:{Q}:h:DIGEST       string: whose it is               opaque tokens; Q from the digest
    authz:{Q}:u:NAME         string: user id                   names of users; Q from the name

Counts are four little-endian doubles, whole numbers: requests, denied, input tokens, output tokens.

Names are injective: kinds and limits hold no colon, and only the last part comes from outside. The first `{…}` of a
name decides its slot, so braces in that part do nothing.
"""

import zlib
from typing import Final

from authz.core.settlement import DecisionId
from authz.core.usage import Step


STORE: Final = "authz:store"
PARTITIONS: Final = 64
BLOCK: Final = 8192  # decisions in one bitmap: a kilobyte
EVERYTHING: Final = "a"  # the owner of all that a partition counts
_STEPS: Final = {Step.HOUR: "o", Step.DAY: "d"}


def partition(tenant: str, partitions: int = PARTITIONS) -> int:
    """Fixed for ever: state lies where this says (CRC-32 of the UTF-8 bytes)."""
    return zlib.crc32(tenant.encode()) % partitions


def name(partition: int, kind: str, rest: str = "") -> str:
    return f"authz:{{{partition}}}:{kind}:{rest}" if rest else f"authz:{{{partition}}}:{kind}"


def group(partition: int, limit: str, owner: str) -> str:
    return name(partition, "g", f"{limit}:{owner}")


def within(partition: int, workspace: str, subject: str) -> str:
    """No name holds a NUL."""
    return name(partition, "y", f"{workspace}\0{subject}")


def removal(partition: int, workspace: str, subject: str) -> str:
    """There from the end of a user until the end of all their keys. *workspace* may be empty; no name holds a NUL."""
    return name(partition, "b", f"{workspace}\0{subject}")


def settled(decision: DecisionId) -> tuple[str, int]:
    """(bitmap, place in it) of a decision. A sidecar's numbers have no gaps, so bitmaps are dense."""
    block, bit = divmod(decision.number, BLOCK)
    return name(decision.partition, "s", f"{decision.process.hex()}:{block}"), bit


def counts(partition: int, owner: str) -> str:
    return name(partition, "c", owner)


def owners(workspace: str, subject: str) -> tuple[str, ...]:
    """Those who have a request's counts, beside its key and `EVERYTHING`. The letter says what follows."""
    own = (of_subject(subject),) if subject else ()
    return (*own, of_workspace(workspace), of_subject_within(workspace, subject)) if workspace else own


def of_key(key_id: str) -> str:
    return f"k:{key_id}"


def of_subject(subject: str) -> str:
    return f"s:{subject}"


def of_workspace(workspace: str) -> str:
    return f"w:{workspace}"


def of_subject_within(workspace: str, subject: str) -> str:
    """No name holds a NUL."""
    return f"y:{workspace}\0{subject}"


def stretch(partition: int, step: Step, at_s: int) -> str:
    """The hour or day in which *at_s* lies."""
    return name(partition, _STEPS[step], str(at_s // step.seconds))


def digest(hex64: str) -> tuple[int, str]:
    """(partition, name) of an opaque token's digest: what is found by it lies anywhere, beside a marker."""
    at = int(hex64[:4], 16) % PARTITIONS
    return at, name(at, "h", hex64)


def user(username: str) -> tuple[int, str]:
    """(partition, name) of a user's name."""
    at = partition(f"u:{username}")
    return at, name(at, "u", username)


def request(hex64: str) -> str:
    return f"authz:request:{hex64}"


def prefix(hex8: str) -> str:
    return f"authz:prefix:{hex8}"
