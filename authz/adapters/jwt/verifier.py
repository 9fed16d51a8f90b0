"""
Verifying a token, per RFC 8725: shape, algorithm pinned to the key, signature, then claims.

PyJWT's algorithms do the cryptography. The parsing around it is ours: PyJWT accepts padded base64, members that stand
twice, and times given as text.
"""

from dataclasses import dataclass
from typing import Final

from authz.adapters.jwt.keyring import Keyring
from authz.adapters.jwt.strict_json import NotStrictError, decode_segment, load_object
from authz.core.claims import Claims, ClaimsPolicy, judge_time, read_claims
from authz.core.credential import MAX_CREDENTIAL_CHARS
from authz.core.decision import Reason, Refusal
from authz.core.recent import Recent
from authz.ports import Clock


MAX_TOKEN_CHARS: Final = MAX_CREDENTIAL_CHARS
CACHE_SIZE: Final = 20_000

SESSION_TYPE: Final = "authz-session+jwt"

# RFC 7515 §4.1.11 and RFC 7797: extensions that change what is signed, or that must be understood. We understand none.
_EXTENSIONS: Final = frozenset({"crit", "b64", "zip", "enc"})
_ALGORITHMS: Final = Refusal(Reason.ALGORITHM_REFUSED)
_SIGNATURE: Final = Refusal(Reason.BAD_SIGNATURE)


@dataclass(slots=True)
class CacheCounts:
    hits: int = 0
    misses: int = 0


class JwtVerifier:
    """
    Verifies our keyring's tokens, and remembers those it has verified.

    The memory is bounded (least recently used goes first), holds no refusal (forgeries cannot fill it), and never
    outlives `exp`: time is judged anew at every use. *sessions*: what the token of a user who has logged in must claim;
    None: it is refused as no API key.
    """

    def __init__(
        self,
        keyring: Keyring,
        policy: ClaimsPolicy,
        clock: Clock,
        cache_size: int = CACHE_SIZE,
        counts: CacheCounts | None = None,
        sessions: ClaimsPolicy | None = None,
    ) -> None:
        self._keyring = keyring
        self._policy = policy
        self._clock = clock
        self._sessions = sessions
        self._verified: Recent[str, Claims] = Recent(cache_size)
        self.counts = counts or CacheCounts()

    def verify(self, token: str) -> Claims | Refusal:
        claims = self._verified.get(token)
        if claims is None:
            self.counts.misses += 1
            judged = self._verify_anew(token)
            if isinstance(judged, Refusal):
                return judged
            claims = judged
        else:
            self.counts.hits += 1
        if refusal := judge_time(claims, self._clock.now_s(), self._policy.leeway_s):
            self._verified.forget(token)
            return refusal
        self._verified.put(token, claims)
        return claims

    def _verify_anew(self, token: str) -> Claims | Refusal:
        if len(token) > MAX_TOKEN_CHARS:
            return Refusal(Reason.MALFORMED_CREDENTIAL, f"the key is longer than {MAX_TOKEN_CHARS} characters")
        try:
            header, payload, signature = (decode_segment(part) for part in token.split("."))
            parameters = load_object(header)
        except ValueError:
            return Refusal(Reason.MALFORMED_CREDENTIAL, "it cannot be decoded: the copy may be damaged")
        if refusal := self._refuse_signature(parameters, token.rpartition(".")[0].encode("ascii"), signature):
            return refusal
        policy = self._policy_of(parameters.get("typ", "JWT"))
        if isinstance(policy, Refusal):
            return policy
        try:
            return read_claims(load_object(payload), policy)
        except NotStrictError:
            return Refusal(Reason.BAD_CLAIMS, "they are not one JSON object in which every member stands once")

    def _refuse_signature(self, parameters: dict[str, object], message: bytes, signature: bytes) -> Refusal | None:
        """None: a key of ours made it, by the algorithm that the key is for. Only `kid` chooses among our keys."""
        algorithm, kid = parameters.get("alg"), parameters.get("kid")
        if not isinstance(algorithm, str) or not _EXTENSIONS.isdisjoint(parameters):
            return _ALGORITHMS
        if not isinstance(kid, str) and (kid is not None or "kid" in parameters):  # null is no absence
            return _SIGNATURE
        if algorithm not in {key.algorithm for key in self._keyring.keys}:
            return _ALGORITHMS
        candidates = [key for key in self._keyring.candidates(kid) if key.algorithm == algorithm]
        if any([key.verifies(message, signature) for key in candidates]):  # noqa: C419 - each is tried, none is timed out
            return None
        return _SIGNATURE

    def _policy_of(self, typ: object) -> ClaimsPolicy | Refusal:
        """RFC 8725 §3.11: our kinds of token are told apart by `typ`; an API key's is `JWT`, or absent."""
        kind = typ.lower() if isinstance(typ, str) else ""
        if kind == "jwt":
            return self._policy
        if kind == SESSION_TYPE and self._sessions is not None:
            return self._sessions
        return Refusal(Reason.WRONG_KIND, "send an API key")
