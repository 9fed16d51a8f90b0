"""grpcio's asyncio servers: the check, health, reflection."""
