"""What is said of the process that listens, and of another version."""

import os

from nsbroker.cli.diagnosis import broker
from nsbroker.cli.diagnosis.row import Verdict
from nsbroker.linux.socket_options import Credentials
from nsbroker.protocol.messages import Status
from nsbroker.version import VERSION


def test_who_listens_tells_how_the_broker_was_started() -> None:
    assert "nsbroker.socket" in broker._describe_start(Credentials(1, 0, 0)).text
    assert "process 4711 was started by hand" in broker._describe_start(Credentials(4711, 0, 0)).text
    assert "another PID namespace" in broker._describe_start(Credentials(0, 0, 0)).text
    for row in map(broker._describe_start, (Credentials(1, 0, 0), Credentials(4711, 0, 0), Credentials(0, 0, 0))):
        assert row.verdict is Verdict.OK


def test_a_broker_that_is_not_roots_is_a_warning() -> None:
    row = broker._describe_start(Credentials(4711, 4001, 4001))
    assert row.verdict is Verdict.WARN
    assert "$NSBROKER_ADDRESS" in row.advice


def test_a_broker_of_another_version_is_a_warning_that_says_how_to_change_it() -> None:
    same, other = (broker._compare_versions(Status(version, {}, 2, 0.0, False)) for version in (VERSION, "0.0.1"))
    assert (same.verdict, other.verdict) == (Verdict.OK, Verdict.WARN)
    assert "0.0.1" in other.text
    assert "systemctl try-restart nsbroker.service" in other.advice


def test_a_process_that_is_not_stopped_is_not_called_stopped() -> None:
    for pid in (os.getpid(), 1, 0, 2**30):
        assert "kill -CONT" not in broker._advise_on_silence(pid)
