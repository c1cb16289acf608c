"""Where the configuration of names is, for a target that has no process."""

from pathlib import Path

import pytest

from nsbroker.model.target import Target
from nsbroker.names.configuration import is_alone, read_alone, read_named


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder /etc/netns/blue, which has a file hosts.  It is elsewhere, because users cannot write to /etc."""
    monkeypatch.setattr("nsbroker.names.configuration._NAMED", tmp_path)
    folder = tmp_path / "blue"
    folder.mkdir()
    (folder / "hosts").write_bytes(b"10.0.0.1 web\n")
    return folder


def test_a_name_has_the_files_that_ip_netns_gives_it(named: Path) -> None:
    blue = Target.parse("name:blue")
    assert read_named(blue, "hosts") == read_alone(blue, "hosts") == b"10.0.0.1 web\n"
    assert read_named(blue, "resolv.conf") is None
    assert read_named(Target.parse("name:red"), "hosts") is None
    assert read_alone(Target.parse("name:red"), "hosts") == Path("/etc/hosts").read_bytes()


def test_only_a_namespace_is_alone(named: Path) -> None:
    for text, alone in {
        "name:blue": True,
        "net:[4026531840]": True,
        "path:/run/x": True,
        "pid:1": False,
        "docker:web": False,
    }.items():
        assert is_alone(Target.parse(text)) is alone
        if text != "name:blue":
            assert read_named(Target.parse(text), "hosts") is None
