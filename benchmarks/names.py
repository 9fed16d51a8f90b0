"""What rows and sections are called, wherever they are named."""

from typing import Final


# Sections
SERVERS: Final = "servers"
FEW: Final = "few connections"
OPEN: Final = "open loop"
MIXES: Final = "mixes"

# Contenders
CEILING: Final = "our server, canned answer (the ceiling)"
CEILING_COMPILED: Final = "the same, compiled"
NGHTTPD: Final = "nghttpd (C), canned answer"
GO: Final = "grpc-go, does nothing"
SYNC: Final = "grpcio with threads, does nothing"
AIO: Final = "grpc.aio, does nothing"
GRPCIO: Final = "authz, server: grpcio (grpc.aio, full check)"
FAST: Final = "authz, server: fast"
COMPILED: Final = ", compiled"

# Mixes; a compiled one has COMPILED behind it
CEILING_TRACED: Final = "the ceiling, with tracing"
CEILING_METERED: Final = "the ceiling, with JSON answers"
ONE: Final = "one key"
HUNDRED: Final = "100 keys"
MANY: Final = "100,000 keys, drawn evenly"
FIRST_SEEN: Final = "first-seen tokens"
OPAQUE: Final = "100 opaque keys"
DENIED: Final = "half of them denied"
REVOKED: Final = "revoked keys alone"
THREE: Final = "three buckets, workspaces"
TRACED: Final = "tracing on"
SETTLED: Final = "settlement on"
CLUSTER: Final = "a cluster of three"

# Growth
STORED: Final = "growth: keys in the store"
USED: Final = "growth: keys in use"
REVOCATIONS: Final = "growth: revoked keys in the store"
ROUTES: Final = "growth: routes, each path for the first time"
ROUTES_KNOWN: Final = "growth: routes, a path again and again"
SCOPES: Final = "growth: scopes of a key"
BUCKETS: Final = "growth: buckets a request"
