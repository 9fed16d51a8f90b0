"""Whose address a request comes from: what proxies that we trust have seen, never what a client claims."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.addresses import MAX_HOPS, client_address


TRUSTED = tuple(ipaddress.ip_network(text) for text in ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8"))
PROXY = "10.0.0.5"
CLIENT = "203.0.113.9"


def address(peer: str, forwarded_for: str = "") -> str:
    return client_address(peer, forwarded_for, TRUSTED)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        pytest.param(CLIENT, "", CLIENT, id="no proxy"),
        pytest.param(CLIENT, "198.51.100.1", CLIENT, id="a peer that nobody trusts may claim what it likes"),
        pytest.param(CLIENT, PROXY, CLIENT, id="also that it is a proxy"),
        pytest.param(PROXY, CLIENT, CLIENT, id="one proxy"),
        pytest.param(PROXY, f"{CLIENT}, 10.1.1.1", CLIENT, id="two proxies"),
        pytest.param(PROXY, f"{CLIENT},10.1.1.1,10.2.2.2,10.3.3.3", CLIENT, id="four proxies, no spaces"),
        pytest.param(PROXY, f"198.51.100.1, {CLIENT}", CLIENT, id="spoofed: the client sent an address of its own"),
        pytest.param(PROXY, f"10.9.9.9, {CLIENT}", CLIENT, id="spoofed: the client sent a proxy's"),
        pytest.param(PROXY, f"198.51.100.1, {CLIENT}, 10.1.1.1", CLIENT, id="spoofed, over two proxies"),
        pytest.param(PROXY, f"{PROXY}, {PROXY}, {CLIENT}", CLIENT, id="spoofed with the peer's own"),
        pytest.param(PROXY, f"{CLIENT}:4711", CLIENT, id="with a port"),
        pytest.param(PROXY, f"{CLIENT}:4711, 10.1.1.1:80", CLIENT, id="ports of both"),
        pytest.param(PROXY, "2001:db8::1", "2001:db8::1", id="IPv6"),
        pytest.param(PROXY, "[2001:db8::1]", "2001:db8::1", id="IPv6 in brackets"),
        pytest.param(PROXY, "[2001:db8::1]:4711", "2001:db8::1", id="IPv6 with a port"),
        pytest.param(PROXY, "2001:db8::1, [fd00::7]:80", "2001:db8::1", id="IPv6 over a proxy in brackets"),
        pytest.param("fd00::1", CLIENT, CLIENT, id="a proxy with IPv6"),
        pytest.param("::ffff:10.0.0.5", CLIENT, CLIENT, id="a proxy with a mapped address"),
        pytest.param(PROXY, f"{CLIENT}, ::ffff:10.1.1.1", CLIENT, id="a mapped proxy between"),
        pytest.param("::ffff:203.0.113.9", "198.51.100.1", "::ffff:203.0.113.9", id="a mapped peer that nobody trusts"),
        pytest.param(PROXY, "", PROXY, id="a proxy that says nothing"),
        pytest.param(PROXY, "   ", PROXY, id="a proxy that sends white space"),
        pytest.param(PROXY, ",", PROXY, id="a comma alone"),
        pytest.param(PROXY, f"{CLIENT},", PROXY, id="nothing behind the last comma"),
        pytest.param(PROXY, f"{CLIENT}, , 10.1.1.1", "10.1.1.1", id="a gap: what stands left of it proves nothing"),
        pytest.param(PROXY, "10.1.1.1, 10.2.2.2", "10.1.1.1", id="proxies alone: the outermost"),
        pytest.param(PROXY, "unknown", "unknown", id="a proxy that does not know (RFC 7239 §6.2)"),
        pytest.param(PROXY, f"{CLIENT}, unknown", "unknown", id="nothing left of what is unknown counts"),
        pytest.param(PROXY, f"{CLIENT}, not an address", "not an address", id="rubbish"),
        pytest.param(PROXY, f"{CLIENT}, 10.1.1.1.1", "10.1.1.1.1", id="rubbish that looks like a proxy"),
        pytest.param(PROXY, f"{CLIENT}, 010.1.1.1", "010.1.1.1", id="a zero in front: octal to some, nothing to us"),
        pytest.param(PROXY, f"{CLIENT}, 10.1.1.1/8", "10.1.1.1/8", id="a network"),
        pytest.param("", CLIENT, CLIENT, id="a Unix socket"),
        pytest.param("", f"198.51.100.1, {CLIENT}", CLIENT, id="a Unix socket, spoofed"),
        pytest.param("", f"{CLIENT}, 10.1.1.1", CLIENT, id="a Unix socket before a proxy"),
        pytest.param("", "", "", id="a Unix socket that says nothing"),
        pytest.param("testclient", CLIENT, "testclient", id="a peer that is no address"),
    ],
)
def test_the_first_from_the_right_that_is_no_proxy_of_ours(peer: str, forwarded_for: str, expected: str) -> None:
    assert address(peer, forwarded_for) == expected


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.5", "", CLIENT])
def test_without_trusted_proxies_the_header_says_nothing(peer: str) -> None:
    assert client_address(peer, "198.51.100.1", ()) == peer


def test_a_long_header_is_read_from_its_end_and_not_for_ever() -> None:
    """Every hop a proxy of ours: as many as there may be, and no further."""
    hops = [f"10.0.{number // 256}.{number % 256}" for number in range(10_000)]

    assert address(PROXY, ", ".join([CLIENT, *hops[: MAX_HOPS - 1]])) == CLIENT
    assert address(PROXY, ", ".join([CLIENT, *hops])) == hops[-MAX_HOPS]


hops = st.lists(
    st.ip_addresses().map(str) | st.text(max_size=12) | st.sampled_from([PROXY, "10.1.1.1:80", "[fd00::1]", ""]),
    max_size=6,
)


@given(st.ip_addresses(v=4).map(str) | st.just("") | st.just(PROXY) | st.text(max_size=8), hops)
def test_whatever_is_sent_there_is_an_answer(peer: str, sent: list[str]) -> None:
    """The peer's own, or a piece of the header."""
    answer = address(peer, ",".join(sent))

    assert answer == peer or answer in ",".join(sent)


@given(hops, st.lists(st.sampled_from(["10.1.1.1", "10.2.2.2:80", "fd00::3"]), max_size=4))
def test_nothing_that_a_client_sends_changes_its_address(spoofed: list[str], proxies: list[str]) -> None:
    """Each proxy appends whom it saw; what the client had put there before stays without effect."""
    assert address(PROXY, ",".join([*spoofed, CLIENT, *proxies])) == CLIENT
