"""Metrics, on a registry of our own."""
