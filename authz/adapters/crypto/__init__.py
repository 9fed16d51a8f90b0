"""Authenticated encryption, on `cryptography`."""
