"""Whatever a hostile or broken broker sends, each client raises an error of ours, and leaks nothing."""

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import nsbroker
from nsbroker.client import transport
from nsbroker.errors import ConnectionLost, NsbrokerError, ProtocolError, Timeout
from nsbroker.linux import ancillary, descriptors
from tests.client.every_client import CLIENTS, Connect, impostor, read_call
from tests.world import PATIENCE, SLOWNESS

pytestmark = pytest.mark.once

DEFAULT_TIMEOUT = 0.3
OPENED = b'{"parameters":{"namespaces":[{"type":"net","device":4,"inode":5,"namespaceFileDescriptor":%d}]}}\0'
TWO = (
    b'{"parameters":{"namespaces":[{"type":"net","device":4,"inode":5,"namespaceFileDescriptor":0},'
    b'{"type":"uts","device":4,"inode":5,"namespaceFileDescriptor":1}]}}\0'
)
SOCKET = b'{"parameters":{"socketFileDescriptor":%s}}\0'
DEVICE = b'{"parameters":{"deviceFileDescriptor":%s}}\0'
INTERFACE = b'{"parameters":{"interface":"tap0"%s}}\0'
TAP = INTERFACE % b',"interfaceFileDescriptor":0'
PEER = b'{"parameters":{"peer":{"uid":1,"gid":1,"groups":[],"pid":1,"anonymous":false}}}\0'
AMBIGUOUS = b'{"error":"io.nsbroker.Broker.AmbiguousTarget","parameters":{"target":"x","candidates":%b}}\0'
MISSING = b'{"error":"io.nsbroker.Broker.NoSuchTarget","parameters":{"target":"%b","reason":"%b"}}\0'
NASTY = rb"\u001b[2J\u009b31m\u202e\u2066\u2028\u007f\u0000\n"


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return CLIENTS[request.param]


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def null_path() -> int:
    return os.open(os.devnull, os.O_PATH)


def net() -> int:
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def net_path() -> int:
    return os.open("/proc/self/ns/net", os.O_PATH)


def folder() -> int:
    return os.open("/", os.O_RDONLY)


def socket_of(family: int, kind: int) -> Callable[[], int]:
    return lambda: socket.socket(family, kind).detach()


def reply_with(data: bytes, *makers: Callable[[], int]) -> Callable[[socket.socket], None]:
    """Reply to each call with `data`, and with the fds that the makers open."""

    def behave(sock: socket.socket) -> None:
        while read_call(sock):
            fds = [make() for make in makers]
            try:
                ancillary.send(sock, data, fds)
            finally:
                descriptors.close_all(fds)

    return behave


def trickle(sock: socket.socket) -> None:
    read_call(sock)
    while True:
        sock.sendall(b" ")
        time.sleep(DEFAULT_TIMEOUT / 10)


def endless(data: bytes) -> Callable[[socket.socket], None]:
    def behave(sock: socket.socket) -> None:
        read_call(sock)
        while True:
            sock.sendall(data * 1000)

    return behave


def fds_again_and_again(sock: socket.socket) -> None:
    read_call(sock)
    while True:
        with contextlib.ExitStack() as held:
            fds = [null() for _ in range(100)]
            held.callback(descriptors.close_all, fds)
            ancillary.send(sock, b'{"continues":true}\0', fds)


def in_two_parts(first: bytes, second: bytes, *, fds_with_second: bool) -> Callable[[socket.socket], None]:
    def behave(sock: socket.socket) -> None:
        while read_call(sock):
            fd = net()
            try:
                ancillary.send(sock, first, () if fds_with_second else [fd])
                time.sleep(0.02)
                ancillary.send(sock, second, [fd])
            finally:
                os.close(fd)

    return behave


def open_(broker: Any) -> Any:
    return broker.open("self", "net")


def open_two(broker: Any) -> Any:
    return broker.open_all("self", ["net", "uts"])


def open_all(broker: Any) -> Any:
    return broker.open_all("self")


def create(broker: Any) -> Any:
    return broker.create(["net"])


def a_socket(broker: Any) -> Any:
    return broker.socket("self")


def device(broker: Any) -> Any:
    return broker.device("self", "null")


def tap(broker: Any) -> Any:
    return broker.add_tap("self", "tap0")


def veth(broker: Any) -> Any:
    return broker.add_veth("self", "eth0", "self", "eth1")


def who(broker: Any) -> Any:
    return broker.who_am_i()


def list_(broker: Any) -> Any:
    return broker.list()


def watch(broker: Any) -> Any:
    return broker.events()


STREAM = (socket.AF_INET, socket.SOCK_STREAM)
CASES = {
    "too many fds": (open_, reply_with(OPENED % 0, *[net] * 253), ProtocolError),
    "one fd too many": (open_, reply_with(OPENED % 0, net, net), ProtocolError),
    "no fd": (open_, reply_with(OPENED % 0), ProtocolError),
    "a wrong index": (open_, reply_with(OPENED % 7, net), ProtocolError),
    "a negative index": (open_, reply_with(OPENED % -1, net), ProtocolError),
    "an index that is no number": (open_, reply_with((OPENED % 0).replace(b"or\":0", b"or\":true"), net), ProtocolError),
    "no namespace": (open_, reply_with(OPENED % 0, null), ProtocolError),
    "a folder": (open_, reply_with(OPENED % 0, folder), ProtocolError),
    "a socket for a namespace": (open_, reply_with(OPENED % 0, socket_of(*STREAM)), ProtocolError),
    "a namespace opened with O_PATH": (open_, reply_with(OPENED % 0, net_path), ProtocolError),
    "the same type twice": (open_two, reply_with(TWO, net, net), ProtocolError),
    "the same type twice, when no types were asked for": (open_all, reply_with(TWO, net, net), ProtocolError),
    "another type": (lambda broker: broker.open("self", "uts"), reply_with(OPENED % 0, net), ProtocolError),
    "not all": (open_two, reply_with(OPENED % 0, net), ProtocolError),
    "something else than a namespace was created": (
        create, reply_with(OPENED[:-3] % 0 + b',"durable":true}}\0', null), ProtocolError,
    ),
    "durable is no bool": (create, reply_with((OPENED % 0).replace(b"]}", b'],"durable":1}'), net), ProtocolError),
    "no socket": (a_socket, reply_with(SOCKET % b"0", null), ProtocolError),
    "a namespace for a socket": (a_socket, reply_with(SOCKET % b"0", net), ProtocolError),
    "a socket of another family": (
        a_socket, reply_with(SOCKET % b"0", socket_of(socket.AF_UNIX, socket.SOCK_STREAM)), ProtocolError,
    ),
    "a socket of another type": (a_socket, reply_with(SOCKET % b"0", socket_of(socket.AF_INET, socket.SOCK_DGRAM)), ProtocolError),
    "a socket too many": (a_socket, reply_with(SOCKET % b"0", *[socket_of(*STREAM)] * 2), ProtocolError),
    "a socket's index as text": (a_socket, reply_with(SOCKET % b'"0"', socket_of(*STREAM)), ProtocolError),
    "no device": (device, reply_with(DEVICE % b"0", folder), ProtocolError),
    "a device opened with O_PATH": (device, reply_with(DEVICE % b"0", null_path), ProtocolError),
    "a device that is open for something else": (
        lambda broker: broker.device("self", "null", os.O_RDWR), reply_with(DEVICE % b"0", null), ProtocolError,
    ),
    "no tap": (tap, reply_with(TAP, folder), ProtocolError),
    "another device than a tap": (tap, reply_with(TAP, null), ProtocolError),
    "a tap without fd": (tap, reply_with(INTERFACE % b""), ProtocolError),
    "an fd that is not the tap's": (tap, reply_with(INTERFACE % b"", null), ProtocolError),
    "a tap too many": (tap, reply_with(TAP, null, null), ProtocolError),
    "an fd with a veth": (veth, reply_with(TAP, null), ProtocolError),
    "unexpected fds": (who, reply_with(PEER, null), ProtocolError),
    "fds with a list": (list_, fds_again_and_again, ProtocolError),
    "fds with a watch": (watch, fds_again_and_again, ProtocolError),
    "fds in the middle": (open_, in_two_parts((OPENED % 0)[:9], (OPENED % 0)[9:], fds_with_second=True), ProtocolError),
    "fds twice": (open_, in_two_parts((OPENED % 0)[:9], (OPENED % 0)[9:], fds_with_second=False), ProtocolError),
    "several replies": (who, reply_with(b'{"continues":true}\0{}\0'), ProtocolError),
    "one reply too many": (who, reply_with(PEER * 2), ProtocolError),
    "one reply too many, with fds": (open_, reply_with(OPENED % 0 + OPENED % 0, net), ProtocolError),
    "garbage": (who, reply_with(b"\xff\xfe garbage\0"), ProtocolError),
    "garbage with fds": (open_, reply_with(b"\xff\xfe garbage\0", null, null), ProtocolError),
    "text that is no UTF-8": (who, reply_with(b'{"error":"\xff"}\0'), ProtocolError),
    "parameters that are no UTF-8": (who, reply_with(b'{"parameters":{"peer":"\xff"}}\0'), ProtocolError),
    "half a surrogate pair": (list_, reply_with(b'{"parameters":{"namespace":{"type":"\\ud800"}}}\0'), ProtocolError),
    "a depth without end": (who, reply_with(b'{"parameters":{"x":' + b"[" * 30000 + b"]" * 30000 + b"}}\0"), ProtocolError),
    "no object": (who, reply_with(b"[]\0"), ProtocolError),
    "parameters that are no object": (who, reply_with(b'{"parameters":[]}\0'), ProtocolError),
    "no parameters": (who, reply_with(b"{}\0"), ProtocolError),
    "an error that goes on": (list_, reply_with(b'{"error":"io.nsbroker.Broker.NameTaken","continues":true}\0'), ProtocolError),
    "an unknown error": (who, reply_with(b'{"error":"com.example.%s"}\0' % NASTY), ProtocolError),
    "an error without its parameters": (who, reply_with(b'{"error":"io.nsbroker.Broker.NoSuchTarget"}\0', ), ProtocolError),
    "an error with wrong parameters": (
        who,
        reply_with(b'{"error":"io.nsbroker.Broker.EngineUnavailable","parameters":{"engine":"x","reason":7}}\0'),
        ProtocolError,
    ),
    "candidates that are no list": (
        who, reply_with(AMBIGUOUS % b'"ab"'), ProtocolError,
    ),
    "candidates that are no texts": (
        who, reply_with(AMBIGUOUS % b"[1]"), ProtocolError,
    ),
    "an error full of control characters": (
        who,
        reply_with(MISSING % (NASTY, NASTY)),
        NsbrokerError,
    ),
    "nothing": (who, lambda _: None, ConnectionLost),
    "silence": (who, reply_with(b""), Timeout),
    "silence in a watch": (watch, reply_with(b""), Timeout),
    "half a message, then silence": (who, reply_with(PEER[:20]), Timeout),
    "half a message with fds, then silence": (open_, reply_with((OPENED % 0)[:20], net), Timeout),
    "half a message, then the end": (who, lambda sock: sock.sendall(PEER[:20]), ConnectionLost),
    "a list that stops": (list_, reply_with(b'{"continues":true}\0' * 3), Timeout),
    "half an event after whole ones": (
        watch, reply_with(b'{"parameters":{"event":"ready"},"continues":true}\0{"par'), Timeout,
    ),
    "a slow trickle": (who, trickle, Timeout),
    "a slow trickle in a watch": (watch, trickle, Timeout),
    "bytes without end": (who, endless(b"x" * 100), ProtocolError),
    "replies without end": (list_, endless(b'{"continues":true}\0'), ProtocolError),
    "long replies without end": (list_, endless(b'{"continues":true,"parameters":{"x":"%b"}}\0' % (b"y" * 9000)), ProtocolError),
    "bytes without end in a watch": (watch, endless(b"x" * 100), ProtocolError),
    "an unknown event": (watch, reply_with(b'{"parameters":{"event":"%b"},"continues":true}\0' % NASTY), ProtocolError),
    "a watch that ends": (watch, reply_with(b'{"parameters":{"event":"ready"}}\0'), NsbrokerError),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_a_hostile_broker_causes_an_error_of_ours_and_leaks_nothing(
    connect: Connect, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "REPLIES_MAX", 1024 * 1024)
    ask, behave, error = CASES[case]
    # Only a broker that says too little is waited for.
    timeout = DEFAULT_TIMEOUT if error is Timeout else PATIENCE
    with impostor(behave) as address:
        async with connect(address, timeout=timeout) as broker:
            begun = time.monotonic()
            with pytest.raises(error):
                await ask(broker)
            assert time.monotonic() - begun < 5 * SLOWNESS


async def test_data_between_two_calls_is_no_reply_to_the_second(connect: Connect) -> None:
    received, sent = threading.Event(), threading.Event()

    def behave(sock: socket.socket) -> None:
        read_call(sock)
        sock.sendall(PEER)
        received.wait(PATIENCE)
        sock.sendall(PEER.replace(b'"uid":1', b'"uid":0'))
        sent.set()
        read_call(sock)

    with impostor(behave) as address:
        async with connect(address) as broker:
            assert (await broker.who_am_i()).uid == 1
            received.set()
            assert sent.wait(PATIENCE)
            received.clear()
            with pytest.raises(ProtocolError, match="before anything was asked"):
                await broker.who_am_i()
            # After that, the client uses a new connection.
            assert (await broker.who_am_i()).uid == 1
            received.set()


async def test_a_full_broker_may_reply_before_the_first_call(connect: Connect) -> None:
    def behave(sock: socket.socket) -> None:
        sock.sendall(b'{"error":"io.nsbroker.Broker.QuotaExceeded","parameters":{"limit":"connections"}}\0')

    with impostor(behave) as address:
        async with connect(address) as broker:
            with pytest.raises(nsbroker.NsbrokerError, match="connections"):
                await broker.who_am_i()


@pytest.fixture
def few_files() -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, old)


def test_fds_beyond_the_limit_of_open_files_are_reported(few_files: None) -> None:
    def behave(sock: socket.socket) -> None:
        read_call(sock)
        ancillary.send(sock, OPENED % 0, [0] * 100)

    with (
        impostor(behave) as address,
        nsbroker.connect(address) as broker,
        pytest.raises(ConnectionLost, match="too many are open here"),
    ):
        broker.open("self", "net")
