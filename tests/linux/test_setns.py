"""Moving the calling thread into another namespace."""

import os

import pytest

from nsbroker.linux import setns
from tests.linux.test_nsfs import close


def test_setns_refuses_the_wrong_type() -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        setns.setns(fd, setns.CLONE_NEWUTS)
    assert close(fd)
