"""A child that is about to execute a program handles no signal itself."""

import os
import signal

from nsbroker.linux import signals


def test_what_python_handles_has_its_default_effect_and_what_is_ignored_stays_ignored() -> None:
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGUSR1, lambda *_: None)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signals.drop_handlers()
            found = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)]
            os._exit(0 if found == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN] else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
