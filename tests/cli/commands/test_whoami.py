"""`nsbroker whoami`."""

import json
import os
import re

from tests.world import Daemon, run_command


def test_whoami(daemon: Daemon) -> None:
    assert json.loads(run_command("whoami", "--json", address=daemon.address).stdout)["uid"] == os.geteuid()
    assert re.search(rf"^user +{os.geteuid()} ", run_command("whoami", address=daemon.address).stdout, re.MULTILINE)
