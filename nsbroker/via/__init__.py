"""Running a program whose sockets are made inside a target's network, without any privilege.

    import nsbroker.via
    nsbroker.via.run(["curl", "http://127.0.0.1:8080/"], "container:web")

The program runs unmodified.  A seccomp filter lets its socket(2) calls wait, a supervisor asks the broker for each socket, and the
kernel hands it to the program as the result of the call.  Its traffic takes no detour.  `run` and `Popen` are for scripts and
threads; `nsbroker.via.trio` has the supervisor for trio.
"""

from nsbroker.via.blocking import Popen, run

__all__ = ["Popen", "run"]
