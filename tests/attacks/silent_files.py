"""A FUSE file system that leaves requests unanswered.  It implements the protocol only for one folder with one file in it.

Run as a program, `silent_files.py FOLDER VICTIM` mounts itself below FOLDER, starts the kind of process that VICTIM names,
and prints its pid.  From then on it does not answer the requests that block this process.  When the program ends, the kernel
ends all waiting for it.
"""

import ctypes
import os
import struct
import sys
import threading
import time

_LOOKUP, _GETATTR, _OPEN, _STATFS, _FLUSH, _INIT = 1, 3, 14, 17, 25, 26
_WITHOUT_ANSWER = (2, 36, 42)
_ENOSYS = 38
_ENTRY = 2
_CLONE_NEWUTS = 0x04000000
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, place: str, kind: str, options: str) -> None:
    if _libc.mount(source.encode(), place.encode(), kind.encode(), 0, options.encode()) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), place)


class SilentFiles:
    """Serves the file system on a thread.  Every name is the same entry, with `mode`; operations in `silent` get no answer.

    `waits` is set once a request is left unanswered.
    """

    def __init__(self, place: str, mode: int) -> None:
        self.silent: set[int] = set()
        self.waits = threading.Event()
        self._mode = mode
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        _mount("silent", place, "fuse", f"fd={self._fd},rootmode=40000,user_id=0,group_id=0")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            _, operation, unique, node = struct.unpack_from("=IIQQ", os.read(self._fd, 1 << 20))
            if operation in self.silent:
                self.waits.set()
            elif operation not in _WITHOUT_ANSWER:
                error, answer = self._answer(operation, node)
                os.write(self._fd, struct.pack("=IiQ", 16 + len(answer), error, unique) + answer)

    def _answer(self, operation: int, node: int) -> tuple[int, bytes]:
        if operation == _INIT:
            return 0, struct.pack("=IIIIHHIIHHI", 7, 31, 65536, 0, 0, 0, 65536, 1, 1, 0, 0) + bytes(24)
        if operation == _LOOKUP:
            return 0, struct.pack("=QQQQII", _ENTRY, 0, 0, 0, 0, 0) + self._attributes(_ENTRY)
        if operation == _GETATTR:
            return 0, struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if operation == _STATFS:
            return 0, struct.pack("=QQQQQIIII", 0, 0, 0, 0, 0, 4096, 255, 0, 0) + bytes(24)
        if operation == _OPEN:
            return 0, struct.pack("=QII", 0, 0, 0)
        return -_ENOSYS, b""

    def _attributes(self, node: int) -> bytes:
        mode, device = (self._mode, 0x103) if node == _ENTRY else (0o40755, 0)
        return struct.pack("=QQQQQQIIIIIIIIII", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, device, 4096, 0)


def in_execve(folder: str) -> int:
    """Return the pid of a process that stays inside execve(2): a file has to be closed there, which sends FLUSH first."""
    files = SilentFiles(folder, 0o100644)
    (opened, tell), (start, go_on) = os.pipe(), os.pipe()
    victim = os.fork()
    if victim == 0:
        _libc.unshare(_CLONE_NEWUTS)
        os.open(f"{folder}/file", os.O_RDONLY | os.O_CLOEXEC)
        os.write(tell, b"!")
        os.read(start, 1)
        os.execv("/bin/sleep", ["sleep", "100"])
    os.read(opened, 1)
    files.silent = {_FLUSH}
    os.write(go_on, b"!")
    files.waits.wait()
    return victim


def below_overlay(folder: str) -> int:
    """Return the pid of a process whose /dev is an overlay of the silent files.

    An overlay makes all its requests with the credentials of whoever mounted it.
    """
    for name in ("lower", "upper", "work", "root", "root/dev"):
        os.mkdir(f"{folder}/{name}")
    files = SilentFiles(f"{folder}/lower", 0o20666)
    layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    _mount("overlay", f"{folder}/root/dev", "overlay", layers)
    inside, tell = os.pipe()
    victim = os.fork()
    if victim == 0:
        os.chroot(f"{folder}/root")
        os.chdir("/")
        os.write(tell, b"!")
        time.sleep(1000)
    os.read(inside, 1)
    files.silent = {_GETATTR}
    return victim


if __name__ == "__main__":
    _mount("here", sys.argv[1], "tmpfs", "mode=755")
    print({"in_execve": in_execve, "below_overlay": below_overlay}[sys.argv[2]](sys.argv[1]), flush=True)
    time.sleep(1000)
