"""
Every name in the store. The partition is the hash tag, so whatever a tenant owns shares one slot of a cluster.

    authz:store              hash: id, partitions, state       whose store this is, and into how many parts it is cut
    authz:prefix:HEX8        string: key id                    display prefixes given away
    authz:{P}:m              string: store id                  marker; gone: the partition was wiped
    authz:{P}:i              string: µs                        the latest `issued` given in the partition
    authz:{P}:k              sorted set: key id by µs issued   for lists
    authz:{P}:r:KEY          string: record                    see proto/authz/store/v1/record.proto
    authz:{P}:v:KEY          string: whole number              version; negative: revoked
    authz:{P}:t:KEY          string: "µs reason"               when and why it was revoked
    authz:{P}:x:SUBJECT      string: µs                        everything of the subject issued up to then is revoked
    authz:{P}:w:WORKSPACE    string: µs                        the same for a workspace
    authz:{P}:g:LIMIT:OWNER  string: buckets                   gone: full

Names are injective: kinds and limits hold no colon, and only the last part comes from outside. The first `{…}` of a
name decides its slot, so braces in that part do nothing.
"""

import zlib
from typing import Final


STORE: Final = "authz:store"
PARTITIONS: Final = 64


def partition(tenant: str, partitions: int = PARTITIONS) -> int:
    """Fixed for ever: state lies where this says (CRC-32 of the UTF-8 bytes)."""
    return zlib.crc32(tenant.encode()) % partitions


def name(partition: int, kind: str, rest: str = "") -> str:
    return f"authz:{{{partition}}}:{kind}:{rest}" if rest else f"authz:{{{partition}}}:{kind}"


def group(partition: int, limit: str, owner: str) -> str:
    return name(partition, "g", f"{limit}:{owner}")


def prefix(hex8: str) -> str:
    return f"authz:prefix:{hex8}"
