"""
A server for unary gRPC over plain HTTP/2 (prior knowledge), from a proxy on loopback or a Unix socket. Bytes in, bytes
out; it knows nothing of what the methods do.

The way of a call: `server` (addresses, connections, drain) → `connection` (frames in, RFC 9113's rules) → `table`
(streams, from opening to end) → `calls` (a handler's coroutine, without a task) → `outgoing` (frames out, windows).
Beside them: `blocks` (header blocks), `messages` (gRPC), `uploads` (messages in pieces), `limits`.

What makes it fast: a read is parsed in one loop, a call whose headers and message are there is begun at once, header
blocks are looked up by their bytes, and all answers that are ready are one write.
"""
