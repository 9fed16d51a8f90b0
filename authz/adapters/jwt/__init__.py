"""Signing and verifying our keys' JWTs, on PyJWT."""
