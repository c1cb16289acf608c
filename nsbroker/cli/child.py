"""A command that runs as a child of this process: it gets the signals that are sent to us, and its exit code becomes ours."""

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nsbroker.linux import signals

_SIGNALS = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCHLD,
}
_SI_KERNEL = 0x80  # include/uapi/asm-generic/siginfo.h


@contextlib.contextmanager
def signals_blocked() -> Iterator[Callable[[], object]]:
    """Block the signals that `wait` receives.  Yields the `preexec_fn` for subprocess.Popen that gives the child our old mask."""
    # A shell can leave SIGCHLD ignored, and then no child could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield lambda: _restore(mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _restore(mask: Iterable[int]) -> None:
    signals.drop_handlers()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def wait(process: subprocess.Popen[Any]) -> int:
    """Wait until the command ends, and return its exit code as shells do (128 + N: ended by signal N).

    Signals that other processes send to us are passed on.  Those of the terminal, which the kernel sends, reach the command without
    us, because it is in the same process group.
    """
    while process.poll() is None:
        info = signal.sigwaitinfo(_SIGNALS)
        if info.si_signo != signal.SIGCHLD and info.si_code != _SI_KERNEL:
            process.send_signal(info.si_signo)
    code = int(process.returncode)
    return code if code >= 0 else 128 - code
