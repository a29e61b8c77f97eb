"""Which addresses count as public, whatever Python's own tables say."""

import ipaddress

import pytest

from embedders.http_client import allowed

PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.170", "192.0.2.1",
    "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::8.8.8.8", "::ffff:10.0.0.1", "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::7f00:1",
    "64:ff9b:1::1", "64:ff9b:1::808:808", "64:ff9b:0:1::8.8.8.8", "100::1", "100:0:0:1::1",
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1",
    "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::1", "2002:a9fe:a9fe::",
    "2002:e000:1::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1",
    "fe80::1%eth0", "fec0::1", "feff::1", "ff02::1", "ff0e::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.0.1.1",
    "198.17.0.1", "198.20.0.1", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888",
    "2a00:1450::1", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8",
]  # fmt: skip


@pytest.mark.fault("Providers")
@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_not_connected_to(address: str) -> None:
    """A provider's name resolves to an address that is private, reserved or wraps such a one -> no
    connection, on any version of Python.
    """
    assert not allowed(address, ())


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_connected_to(address: str) -> None:
    assert allowed(address, ())


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.1.1.1", "::ffff:10.1.1.1", "64:ff9b::a01:101", "2002:a01:101::"],
         ["192.168.0.1", "::ffff:127.0.0.1"]),
        ("fec0::/10", ["fec0::7"], ["fe80::1"]),
        ("64:ff9b:1::/48", ["64:ff9b:1::8"], ["64:ff9b::7f00:1"]),
        ("::1/128", ["::1"], ["127.0.0.1", "::7f00:1"]),
    ],
)  # fmt: skip
def test_a_network_that_was_allowed_is_reached_however_it_is_written(
    network: str, inside: list[str], outside: list[str]
) -> None:
    networks = [ipaddress.ip_network(network)]
    assert all(allowed(address, networks) for address in inside)
    assert not any(allowed(each, networks) for each in outside)
