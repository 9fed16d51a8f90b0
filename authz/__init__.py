"""authz: an external-authorization sidecar for Envoy. The rooms and their directions: docs/architecture.md."""

__version__ = "0.1.0"
