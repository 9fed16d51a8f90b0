"""Envoy's door: CheckRequest to core, decision to CheckResponse. Knows nothing of the server that carries the bytes."""
