"""
Public test vectors (Wycheproof, RFC 7515), where they are: `AUTHZ_TEST_VECTORS` names the folder of
`jws_vectors.jsonl`. They are not a part of this repository; `test_hostile_tokens.py` has the telling classes anew.

A vector judges the signature alone, and its payload is seldom a claims set: so a signature counts as accepted where
verification got past it, to the token's type or its claims. A keyring that the settings refuse (a short secret, an id
twice) never gets as far as a token: that counts as refused.
"""

import base64
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from authz.adapters.jwt.keyring import VerificationKey
from authz.core.decision import Reason, Refusal
from authz.settings.load import MIN_SECRET_BYTES
from tests.support.tokens import HASHES, verifier


VARIABLE = "AUTHZ_TEST_VECTORS"
BEFORE_THE_CLAIMS = {Reason.MALFORMED_CREDENTIAL, Reason.BAD_SIGNATURE, Reason.ALGORITHM_REFUSED}


@functools.cache
def rows() -> list[dict[str, Any]]:
    """Those of the algorithms that our keyring takes, without the undecided ones."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return []
    lines = (Path(folder) / "jws_vectors.jsonl").read_text("utf-8").splitlines()
    every = (json.loads(line) for line in lines)
    return [row for row in every if row["alg"] in HASHES and wanted(row) != "policy" and not row.get("quarantine")]


def wanted(row: dict[str, Any]) -> str:
    return str(row.get("expected_strict") or row["expected"])


def keyring_of(row: dict[str, Any]) -> list[VerificationKey] | None:
    """The row's keys; None where the settings would refuse them."""
    jwks = row["key"].get("keys", [row["key"]])
    keys = [
        VerificationKey(jwk.get("kid"), jwk.get("alg", row["alg"]), base64.urlsafe_b64decode(jwk["k"] + "=="))
        for jwk in jwks
        if jwk["kty"] == "oct"
    ]
    ids = [key.id for key in keys if key.id is not None]
    if len(set(ids)) != len(ids) or any(len(key.secret) < MIN_SECRET_BYTES[key.algorithm] for key in keys):
        return None
    return keys


def signature_accepted(row: dict[str, Any]) -> bool:
    keys = keyring_of(row)
    if not keys:
        return False
    answer = verifier(*keys).verify(row["token"])
    return not (isinstance(answer, Refusal) and answer.reason in BEFORE_THE_CLAIMS)


@pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"no test vectors: {VARIABLE} names no folder")
def test_there_are_vectors_of_both_kinds() -> None:
    """A file without rows for us would prove nothing."""
    kinds = [wanted(row) for row in rows()]

    assert kinds.count("valid") >= 10
    assert kinds.count("invalid") >= 40


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row["id"]) for row in rows()]
    or [pytest.param({}, marks=pytest.mark.skip(reason=f"no test vectors: {VARIABLE} names no folder"), id="none")],
)
def test_vector(row: dict[str, Any]) -> None:
    """Each signature is judged as the vector says, by its strict reading where it has one."""
    assert signature_accepted(row) == (wanted(row) == "valid"), row["comment"]
