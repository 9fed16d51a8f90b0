"""
A load that does not wait: requests are due at a fixed rate, and a latency counts from the moment at which its request
was due. So a server that stalls is charged with all that should have been asked meanwhile (no coordinated omission).
"""

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final


TIMEOUT_S: Final = 5.0
LEAD_S: Final = 0.05  # for all threads to be there


@dataclass(slots=True)
class Seen:
    """`latencies_s`: of what was answered."""

    latencies_s: list[float] = field(default_factory=list)
    refused: int = 0
    broken: int = 0
    ended_s: float = 0.0


def run(port: int, requests: Sequence[bytes], *, rate: int, seconds: int, connections: int) -> tuple[Seen, float]:
    """What was seen, and requests answered a second. Each connection has a thread of its own."""
    begins_s = time.monotonic() + LEAD_S
    each = [Seen() for _ in range(connections)]

    def work(number: int) -> None:
        due = [begins_s + place / rate for place in range(number, rate * seconds, connections)]
        _ask(
            port,
            due,
            [requests[(number + place * connections) % len(requests)] for place in range(len(due))],
            each[number],
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = Seen(
        sorted(latency_s for seen in each for latency_s in seen.latencies_s),
        sum(seen.refused for seen in each),
        sum(seen.broken for seen in each),
    )
    lasted_s = max(seen.ended_s for seen in each) - begins_s
    return whole, len(whole.latencies_s) / lasted_s


def percentile(of: Sequence[float], share: float) -> float:
    """Of sorted values: the smallest that as many are not above."""
    return of[min(len(of) - 1, int(len(of) * share))] if of else 0.0


def _ask(port: int, due: Sequence[float], requests: Sequence[bytes], seen: Seen) -> None:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for due_s, request in zip(due, requests, strict=True):
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            try:
                connection.sendall(request)
                is_refused = not _answer(connection).startswith(b"HTTP/1.1 2")
            except OSError:
                seen.broken = len(due) - len(seen.latencies_s)
                break
            seen.latencies_s.append(time.monotonic() - due_s)
            seen.refused += is_refused
        seen.ended_s = time.monotonic()


def _answer(connection: socket.socket) -> bytes:
    """One answer, whole. Raises: OSError."""
    told = b""
    while b"\r\n\r\n" not in told:
        told += _received(connection)
    head, _, body = told.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0].partition(b":")[2]) - len(body) if lengths else 0
    while missing > 0:
        missing -= len(_received(connection))
    return head


def _received(connection: socket.socket) -> bytes:
    some = connection.recv(65536)
    if not some:
        raise ConnectionResetError
    return some
