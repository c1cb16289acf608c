"""What a resolv.conf sets, within limits: the target wrote it."""

import dns.nameserver
import dns.resolver
import pytest

from nsbroker.errors import LookupFailed
from nsbroker.names.resolver import configure


def configured(text: bytes, timeout: float | None = None) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    configure(resolver, text, lambda address: dns.nameserver.Do53Nameserver(address), timeout)
    return resolver


def servers(resolver: dns.resolver.Resolver) -> list[str]:
    return [server.address for server in resolver.nameservers if isinstance(server, dns.nameserver.Do53Nameserver)]


def test_servers_search_and_options_are_as_in_the_file() -> None:
    text = b"# made\nnameserver 10.0.0.1\nnameserver 2001:db8::1\nsearch a.test b.test\noptions ndots:3 timeout:2\n"
    resolver = configured(text)
    assert servers(resolver) == ["10.0.0.1", "2001:db8::1"]
    assert [name.to_text() for name in resolver.search] == ["a.test.", "b.test."]
    assert (resolver.ndots, resolver.timeout, resolver.lifetime) == (3, 2, 8)


def test_without_a_server_the_local_one_is_asked() -> None:
    for text in (b"", b"search x\n", b"nameserver\n", b"nameserver fe80::1%eth0\n", b"nameserver nonsense\n"):
        assert servers(configured(text)) == ["127.0.0.1"]


def test_no_file_makes_a_lookup_long() -> None:
    text = "".join(f"nameserver 10.0.0.{n}\n" for n in range(1, 200)) + "options timeout:99999 ndots:99999\n"
    resolver = configured((text + "search " + " ".join(f"d{n}.test" for n in range(500))).encode())
    assert len(resolver.nameservers) == 3
    assert len(resolver.search) == 6
    assert (resolver.ndots, resolver.timeout, resolver.lifetime) == (15, 30, 30)
    assert configured(text.encode(), 1.5).lifetime == 1.5


@pytest.mark.parametrize(
    "text", [b"\xff\x00\xfe", b"options ndots:x timeout:-1\n", b"options ndots:-5 timeout:0\n", b"options\nsearch\n\n;\n"]
)
def test_nonsense_is_ignored(text: bytes) -> None:
    resolver = configured(text)
    assert resolver.timeout >= 1
    assert (resolver.ndots or 0) >= 0


@pytest.mark.parametrize("text", [b"search ..\n", b"domain " + b"x" * 300, b"search " + b"a." * 200])
def test_a_domain_that_is_none_is_a_clear_error(text: bytes) -> None:
    with pytest.raises(LookupFailed, match="makes no sense"):
        configured(text)
