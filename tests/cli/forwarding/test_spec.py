"""What to forward, as command lines write it."""

import argparse

import pytest

from nsbroker.cli.forwarding.spec import End, Protocol, Spec, parse_listen

LOOPBACK = "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "listen", "to"),
    [
        ("80", End(LOOPBACK, 80), End("", 80)),
        ("8080:80", End(LOOPBACK, 8080), End("", 80)),
        ("0:80", End(LOOPBACK, 0), End("", 80)),
        ("0.0.0.0:80", End("0.0.0.0", 80), End("", 80)),
        ("localhost:8080:80", End("localhost", 8080), End("", 80)),
        ("[::1]:8080:80", End("::1", 8080), End("", 80)),
        ("[fe80::1%eth0]:80", End("fe80::1%eth0", 80), End("", 80)),
        ("9000:db.example:5432", End(LOOPBACK, 9000), End("db.example", 5432)),
        ("9000:10.0.0.7:5432", End(LOOPBACK, 9000), End("10.0.0.7", 5432)),
        ("9000:[fd00::7]:5432", End(LOOPBACK, 9000), End("fd00::7", 5432)),
        ("[::]:9000:[fd00::7]:5432", End("::", 9000), End("fd00::7", 5432)),
        ("unix:/run/web.sock:80", End("", 0, "/run/web.sock"), End("", 80)),
        ("unix:web.sock:db:5432", End("", 0, "web.sock"), End("db", 5432)),
        ("9000:unix:@app", End(LOOPBACK, 9000), End("", 0, "@app")),
        ("0.0.0.0:9000:unix:/run/app.sock", End("0.0.0.0", 9000), End("", 0, "/run/app.sock")),
        ("unix:@a:unix:@b", End("", 0, "@a"), End("", 0, "@b")),
    ],
)
def test_each_way_to_write_it(text: str, listen: End, to: End) -> None:
    assert Spec.parse(text) == Spec(listen, to, Protocol.TCP)
    assert Spec.parse(f"{text}/tcp") == Spec(listen, to, Protocol.TCP)
    if not listen.path and not to.path:
        assert Spec.parse(f"{text}/udp") == Spec(listen, to, Protocol.UDP)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":80", "80:", "http", "0", "80:0", "65536", "65536:80", "-1", "+1", "1_0", "٣", "9" * 5000),
        *("80:80:80", "a:80:80:80", "a:b:80", "80:a:b", "a:1:b:2:3", "::1:80:80", "[::1:80:80", "[]:80:80", "[::1]80"),
        *("[a b]:80:80",),
        *(
            "unix:",
            "unix:/x",
            "unix::80",
            "unix:@:80",
            "80:unix:",
            "80:unix:/a:b",
            "80:unix:/a:80",
            "unix:/a\0b:80",
            f"unix:/{'x' * 107}:80",
        ),
        *("80/", "80/sctp", "/udp", "unix:/x:80/udp", "80:unix:@x/udp", "80:80:80:80:80", ":" * 100_000, "[" * 100_000),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        Spec.parse(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("1080", End(LOOPBACK, 1080)),
        ("0", End(LOOPBACK, 0)),
        ("[::1]:1080", End("::1", 1080)),
        ("localhost:1080", End("localhost", 1080)),
        ("unix:/run/socks", End("", 0, "/run/socks")),
    ],
)
def test_where_a_proxy_listens(text: str, end: End) -> None:
    assert parse_listen(text) == end


@pytest.mark.parametrize("text", ["", "x", "1:2", "1080/udp", "65536", "unix:", "a:b:1", "unix:/a:1"])
def test_where_no_proxy_can_listen_is_wrong_usage(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_listen(text)


def test_an_end_is_shown_as_it_is_written() -> None:
    assert [str(Spec.parse(text).to) for text in ("80", "1:db:80", "1:[::1]:80", "1:unix:@x")] == [
        "port 80",
        "db:80",
        "[::1]:80",
        "unix:@x",
    ]


def test_an_abstract_socket_has_an_address_that_begins_with_nul() -> None:
    assert [Spec.parse(f"1:unix:{path}").to.unix_address for path in ("@x", "/x")] == [b"\0x", b"/x"]
