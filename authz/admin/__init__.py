"""The life of a key, on ports."""
