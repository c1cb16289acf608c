"""The supervisor on threads, and a `Popen` and a `run` that use it."""

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from nsbroker.client import blocking
from nsbroker.client.blocking import Broker
from nsbroker.client.requests import TargetLike
from nsbroker.client.transport import DEFAULT_TIMEOUT
from nsbroker.errors import ConnectionLost, Timeout
from nsbroker.linux import seccomp, signals
from nsbroker.linux.seccomp import Notification
from nsbroker.via.core import Answers, SocketCall
from nsbroker.via.launch import Launch
from nsbroker.via.names import names_of


class Supervisor:
    """Answers the calls of a command until its last process has ended.  Takes the answers and the broker's connection.

    If it cannot be made, the answers are closed, and the connection is still the caller's.

    One thread receives each call at once, because until then a signal can interrupt the call.  Another one asks the broker.
    """

    def __init__(self, answers: Answers, broker: Broker, target: TargetLike) -> None:
        self._answers = answers
        self._broker = broker
        self._target = target
        self._waiting: SimpleQueue[Notification | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="via", daemon=True)
        # Whoever acquires it closes the answers.
        self._owner = threading.Lock()
        try:
            self._thread.start()
        except BaseException:
            # When a signal handler raised the exception, the thread may run already.
            if self._owner.acquire(blocking=False):
                answers.close()
            raise

    def join(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds (None: no limit) until the last process has ended, and return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if not self._owner.acquire(blocking=False):
            return
        receiver = threading.Thread(target=self._receive, name="via receive", daemon=True)
        try:
            receiver.start()
            while (notification := self._waiting.get()) is not None:
                call = self._answers.begin(notification)
                if call is not None:
                    self._answer(call)
            receiver.join()
        finally:
            self._answers.close()
            self._broker.close()

    def _receive(self) -> None:
        try:
            over = False
            while not over:
                seccomp.wait(self._answers.fileno())
                received, over = self._answers.receive()
                for notification in received:
                    self._waiting.put(notification)
        finally:
            self._waiting.put(None)

    def _answer(self, call: SocketCall) -> None:
        try:
            sock = self._ask(call)
        except Exception as error:
            # Whatever it is: without an answer, the program would wait for ever.
            self._answers.fail(call, error)
        else:
            with sock:
                self._answers.give(call, sock.fileno())

    def _ask(self, call: SocketCall) -> blocking.Socket:
        try:
            return self._broker.socket(self._target, call.family, call.type, call.protocol)
        except ConnectionLost as error:
            if isinstance(error, Timeout):
                raise
            # The broker was restarted meanwhile.  The client connects again.
            return self._broker.socket(self._target, call.family, call.type, call.protocol)


class Popen(subprocess.Popen[Any]):
    """A program whose sockets are made inside `target`; otherwise as subprocess.Popen.

    The program gains no privileges from setuid bits and file capabilities.  Its sockets are made as long as this process runs,
    also for children that it leaves behind.  What the broker refuses is an error of socket(2) to the program, and one line on
    standard error.
    """

    def __init__(
        self,
        args: str | Sequence[str],
        target: TargetLike,
        *,
        address: str | None = None,
        broker_timeout: float | None = DEFAULT_TIMEOUT,
        preexec_fn: Callable[[], object] | None = None,
        **options: Any,
    ) -> None:
        """Start the program.  `address` and `broker_timeout` are the arguments of `nsbroker.connect`, all others as in subprocess.

        Raises CommandFailed where the kernel does not allow it (Linux 5.14 or later does), the errors of `nsbroker.connect`,
        InvalidTarget, and the errors of subprocess.Popen.
        """
        names = names_of(target)
        broker = blocking.connect(address, timeout=broker_timeout)
        try:
            names.fetch(broker.file)
            # The threads of the supervisor take no signals.  The child gets back the mask that this thread had.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                with Launch(names) as launch:

                    def prepare_child() -> None:
                        signals.drop_handlers()
                        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                        if preexec_fn is not None:
                            preexec_fn()
                        launch.prepare_child()

                    try:
                        super().__init__(args, preexec_fn=prepare_child, **options)
                    except subprocess.SubprocessError as error:
                        # The child raised an exception before execve(2).  subprocess says no more than that.
                        raise launch.failure() or error from error
                    self._supervisor = Supervisor(launch.take(), broker, names.target)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except BaseException:
            try:
                # The program can run already, for example when a signal handler raised an exception.
                if self._child_created and self.returncode is None:  # type: ignore[attr-defined]  # subprocess's own
                    self.kill()
                    self.__exit__(None, None, None)
            finally:
                broker.close()
            raise

    def join(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds (None: no limit) until no process of the program is left; return whether that is so."""
        return self._supervisor.join(timeout)


def run(
    args: str | Sequence[str],
    target: TargetLike,
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> "subprocess.CompletedProcess[Any]":
    """Run a program to its end with its sockets made inside `target`; otherwise as subprocess.run.

    Raises CalledProcessError with `check`, TimeoutExpired after `timeout` seconds, and the errors of `Popen`.
    """
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if capture_output else {}
    if input is not None:
        pipes["stdin"] = subprocess.PIPE
    with Popen(args, target, **pipes, **options) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, output, errors)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
