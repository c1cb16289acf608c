"""List, and Watch: what both refuse."""

from nsbroker.errors import ExpectedMore, InvalidParameter
from tests.daemon.test_dispatcher import call
from tests.world import Daemon


def test_a_call_without_more_and_with_unknown_types_is_refused(daemon: Daemon) -> None:
    for method in ("List", "Watch"):
        for parameters in ({}, {"target": {"self": True}}) if method == "List" else ({},):
            reply = call(daemon, f"io.nsbroker.Broker.{method}", parameters)
            assert reply["error"] == ExpectedMore.wire_name
        for types in (["network"], [], ["net", "net"]):
            reply = call(daemon, f"io.nsbroker.Broker.{method}", {"types": types}, more=True)
            assert reply["error"] == InvalidParameter.wire_name
