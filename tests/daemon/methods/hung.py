"""A file system of FUSE that never answers, mounted in the mount namespace of a process."""

import contextlib
import os
from collections.abc import Callable, Iterator

from nsbroker.linux.libc import check, libc


@contextlib.contextmanager
def hung_file_system(target: str, place: str, options: str = "") -> Iterator[Callable[[], None]]:
    """Mount it at `place` as the process `target` (pid:NUMBER) sees it: every lookup below blocks until it is aborted.

    Yields a function that aborts it, which is also done at the end.
    """
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        ns = os.open(f"/proc/{target.removeprefix('pid:')}/ns/mnt", os.O_RDONLY)
        check(libc.setns(ns, 0x20000))
        data = f"fd={server},rootmode=40000,user_id=0,group_id=0{options}".encode()
        os._exit(0 if libc.mount(b"hung", place.encode(), b"fuse", 0, data) == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    with contextlib.ExitStack() as aborting:
        aborting.callback(os.close, server)
        yield aborting.close
