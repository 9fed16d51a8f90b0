"""Passwords, on argon2-cffi."""
