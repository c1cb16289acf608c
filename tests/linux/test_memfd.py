"""Files in memory that nobody can change."""

import os

import pytest

from nsbroker.linux import memfd


def test_a_sealed_copy_has_the_content_and_nobody_can_change_it() -> None:
    data = os.urandom(70000)
    fd = memfd.sealed_copy("hosts", data)
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:hosts (deleted)"
        assert not os.get_inheritable(fd)
        assert os.pread(fd, 80000, 0) == os.read(fd, 80000) == data
        for change in (lambda: os.write(fd, b"x"), lambda: os.truncate(fd, 1), lambda: os.truncate(fd, 80000)):
            with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument|not permitted"):
                change()
        # It is the user's own file, so the user can open it for writing, too.
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            for change in (lambda: os.write(again, b"x"), lambda: os.truncate(again, 1), lambda: os.truncate(again, 80000)):
                with pytest.raises(PermissionError):
                    change()
        finally:
            os.close(again)
    finally:
        os.close(fd)
