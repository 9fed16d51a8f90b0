"""grpcio's asyncio servers: the check, health, reflection."""

import os


# grpcio's core writes lines of its own to stderr; what goes wrong is told by our exceptions. Read when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
