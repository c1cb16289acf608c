"""Entering a new user namespace as the same user, and the setting that forbids it."""

import os
import subprocess
import sys

import pytest

# A user namespace has a limit of its own for those below it, which its root may set: the same setting as the host's.
PROGRAM = """
import os
from nsbroker.linux import user_namespace

try:
    user_namespace.enter_new(0)
except OSError as error:
    raise SystemExit(user_namespace.why_refused(error))
print(os.getuid(), os.getgid())
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
try:
    user_namespace.enter_new(0)
except OSError as error:
    print(user_namespace.why_refused(error))
"""


def test_the_user_stays_the_same_and_the_setting_that_forbids_it_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    if done.returncode and "user namespaces are not allowed here" in done.stderr:
        pytest.skip(f"{done.stderr.strip()}: none was entered")
    assert done.stdout.splitlines() == [
        f"{os.getuid()} {os.getgid()}",
        "user namespaces are not allowed here (user.max_user_namespaces is 0)",
    ], done.stderr
