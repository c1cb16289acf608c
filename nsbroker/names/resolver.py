"""What the lookups by name servers share: the configuration of dnspython, and its errors."""

import io
from collections.abc import Callable, Sequence

import dns.exception
import dns.message
import dns.nameserver
import dns.resolver

from nsbroker.errors import LookupFailed
from nsbroker.names.hosts import is_address

PORT = 53
DATAGRAM_MAX = 4096
"""The size of the largest datagram in bytes: servers send at most 1232 to us.  It takes long to decode a large one full of junk."""
LENGTH = 2
"""How many bytes stand before a message over TCP, and say how long it is."""
_STREAM_MAX = 16384
DATAGRAMS_MAX = 100
"""How many datagrams are looked at for one answer, because a server can send junk without end."""

# As in glibc's resolv.h, also where a file asks for more: how many servers, dots, seconds for one question, and tries.
_SERVERS_MAX = 3
_NDOTS_MAX = 15
_TIMEOUT_MAX = 30
_TIMEOUT = 5
_TRIES = 2
# A target decides how many search domains there are, and each costs a question.
_SEARCH_MAX = 6
_LIFETIME_MAX = 30.0


def configure(
    resolver: dns.resolver.BaseResolver, text: bytes, serve: Callable[[str], dns.nameserver.Nameserver], timeout: float | None
) -> None:
    """Set up `resolver` as the resolv.conf `text` says.  `serve` makes the object for the server with an address.

    A lookup takes at most `timeout` seconds, if that is less than the file allows.  Raises LookupFailed for a file that makes no
    sense.
    """
    lines = text.decode(errors="replace").split("\n")
    servers = [words[1] for line in lines if (words := line.split())[:1] == ["nameserver"] and len(words) > 1]
    # As resolv.conf(5) says, the local machine is asked if no server is named.
    servers = [address for address in servers if is_address(address)][:_SERVERS_MAX] or ["127.0.0.1"]
    others = [line for line in lines if line.split()[:1] != ["nameserver"]]
    resolver.timeout = _TIMEOUT
    try:
        resolver.read_resolv_conf(io.StringIO("\n".join([*others, f"nameserver {servers[0]}"])))
    except (dns.exception.DNSException, ValueError) as error:
        raise LookupFailed(f"its resolv.conf makes no sense: {error}") from error
    resolver.nameservers = [serve(address) for address in servers]
    resolver.search = resolver.search[:_SEARCH_MAX]
    resolver.ndots = None if resolver.ndots is None else min(max(resolver.ndots, 0), _NDOTS_MAX)
    resolver.timeout = min(max(resolver.timeout, 1), _TIMEOUT_MAX)
    lifetime = min(resolver.timeout * _TRIES * len(servers), _LIFETIME_MAX)
    resolver.lifetime = lifetime if timeout is None else min(lifetime, timeout)


def read_datagram(data: bytes, request: dns.message.QueryMessage) -> dns.message.Message | None:
    """Return the answer to `request` that is in a datagram; None if it has none.

    Raises Truncated if the answer is too long for a datagram.
    """
    try:
        answer = dns.message.from_wire(data, raise_on_truncation=True)
    except dns.message.Truncated as error:
        if request.is_response(error.message()):  # type: ignore[no-untyped-call]  # dnspython's
            raise
        return None
    except Exception:
        # dnspython does not document which errors junk leads to.
        return None
    return answer if request.is_response(answer) else None


def read_length(data: bytes) -> int:
    """Return the length of an answer over TCP.  Raises FormError if it takes too long to decode: a thousand addresses may come."""
    length = int.from_bytes(data, "big")
    if length > _STREAM_MAX:
        raise dns.exception.FormError(f"the answer has {length} bytes")  # type: ignore[no-untyped-call]  # dnspython's
    return length


def read_stream(data: bytes, request: dns.message.QueryMessage) -> dns.message.Message:
    """Decode an answer to `request` that came over TCP.  Raises FormError, and other errors of dnspython, if it is none."""
    answer = dns.message.from_wire(data)
    if not request.is_response(answer):
        raise dns.exception.FormError("the answer is one to another question")  # type: ignore[no-untyped-call]  # dnspython's
    return answer


def only_junk() -> dns.exception.DNSException:
    """Return the error for a server that sent `DATAGRAMS_MAX` datagrams without an answer.  dnspython asks it no more."""
    return dns.exception.FormError(f"none of {DATAGRAMS_MAX} datagrams is an answer")  # type: ignore[no-untyped-call]  # dnspython's


def addresses(answers: dns.resolver.HostAnswers) -> list[str]:
    """Return the addresses in the answers."""
    return list(answers.addresses())


def explain(error: dns.exception.DNSException, failures: Sequence[Exception]) -> Exception:
    """Return the error to raise.  `failures` are those of the sockets to the servers, and say more."""
    if isinstance(error, dns.resolver.NXDOMAIN):
        return LookupFailed("there is no such name")
    if isinstance(error, dns.resolver.NoAnswer):
        return LookupFailed("the name has no address")
    if isinstance(error, dns.resolver.NoNameservers | dns.resolver.LifetimeTimeout):
        if failures:
            return failures[-1]
        slow = isinstance(error, dns.resolver.LifetimeTimeout)
        return LookupFailed("its name servers did not answer in time" if slow else f"its name servers do not know: {error}")
    return LookupFailed(f"that is no host name: {error}")
