"""
The pure heart: what a request, a credential, a principal, a bucket and a decision are, and how one follows from the
other.

Nothing here does I/O, reads a clock, logs, or imports a third party; everything is decided from its arguments.
"""
