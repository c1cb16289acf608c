"""Run the fuzzer.

Environment: CALLS=1000000 is the number of calls of all subjects together, FUZZ_SEED=... chooses other examples, and
SUBJECT=wire,names chooses subjects.  Each subject runs in its own process.  The same seed gives the same examples.
"""

import collections
import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import engines, names, policies, proc, wire
from tests.fuzz.subject import Endless, Subject

SUBJECTS: tuple[Subject, ...] = (wire.SUBJECT, *policies.SUBJECTS, names.SUBJECT, *proc.SUBJECTS, *engines.SUBJECTS)
_DEFAULT_CALLS = 1_000_000
_ROUND = 100
_EVERY = 10.0
_PROCESSOR_SECONDS = 10.0
_FAILURES_MAX = 5
_SIZE = struct.Struct("=I")


class Reporter:
    """Reports the progress of a subject's process to the parent process."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("wb")
        self._calls = 0
        self._reported_at = time.monotonic()

    def count(self, calls: int) -> None:
        """Count calls; report them at most once a second."""
        self._calls += calls
        if time.monotonic() - self._reported_at > 1:
            self.report()

    def report(self) -> None:
        """Report the calls now."""
        self._send("calls", self._calls)
        self._calls, self._reported_at = 0, time.monotonic()

    def fail(self, text: str) -> None:
        """Report a failure."""
        self._send("failed", text)

    def _send(self, kind: str, value: object) -> None:
        text = pickle.dumps((kind, value))
        self._file.write(_SIZE.pack(len(text)) + text)
        self._file.flush()


def run(subject: Subject, calls: int, start: int, reporter: Reporter) -> None:
    """Make that many calls of a subject.  Failures are reported, and the subject goes on."""
    left = calls
    known: collections.Counter[str] = collections.Counter()
    last: Any = None
    failing = False

    def check(example: Any) -> None:
        nonlocal left, last, failing
        # Hypothesis always finishes a round, so skip the surplus examples; but let it shrink an example that fails.
        if left <= 0 and not failing:
            return
        last = example
        try:
            with _deadline():
                done = subject.check(example)
        except BaseException:
            failing = True
            raise
        left -= done
        reporter.count(done)

    def attempt(test: Any) -> None:
        try:
            test()
        except (Exception, Endless) as error:
            place = _place(error)
            known[place] += 1
            if known[place] == 1 and len(known) <= _FAILURES_MAX:
                reporter.fail(f"{subject.name}: {_describe(error)}\n    example: {repr(last)[:1500]}")

    for example in subject.kept:
        attempt(lambda example=example: check(example))
    number = 0
    while left > 0 and known.total() < _FAILURES_MAX * 4:
        number += 1
        failing = False
        rules = settings(
            max_examples=_ROUND,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        # Use our own seed: with `derandomize`, hypothesis would make the same examples in each round.
        attempt(seed(start * 1_000_003 + number)(rules(given(subject.examples)(check))))
    reporter.report()


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raise Endless in the block when it takes too much processor time."""

    def end(*_: object) -> None:
        raise Endless(f"an example takes more than {_PROCESSOR_SECONDS:g} s")

    signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, _PROCESSOR_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _place(error: BaseException) -> str:
    """Return where an error was raised, so that the same fault is reported only once."""
    frame = traceback.extract_tb(_first(error).__traceback__)[-1]
    return f"{type(error).__name__} {frame.filename}:{frame.lineno} {str(error)[:60]}"


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group.  Hypothesis raises a group when an example does not fail each time."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _describe(error: BaseException) -> str:
    first = _first(error)
    frames = traceback.extract_tb(first.__traceback__)[-4:]
    where = " < ".join(f"{os.path.relpath(frame.filename)}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(first).__name__}: {str(first)[:600]}\n    at {where}"


def messages(sock: socket.socket) -> Iterator[tuple[str, Any]]:
    """Yield the reports of a subject's process until it ends."""
    with sock.makefile("rb") as file:
        while head := file.read(_SIZE.size):
            yield pickle.loads(file.read(_SIZE.unpack(head)[0]))


class Progress:
    """Counts calls and failures, and prints a line every ten seconds."""

    def __init__(self, calls: int) -> None:
        self.calls = 0
        self.failures: list[str] = []
        self._all = calls
        self._start = self._printed_at = time.monotonic()

    def take(self, name: str, kind: str, value: Any) -> None:
        """Handle one report."""
        if kind == "failed":
            self.failures.append(value)
            print(f"FAILED {value}", flush=True)
            return
        self.calls += value
        if time.monotonic() - self._printed_at > _EVERY:
            self._printed_at = time.monotonic()
            self.say(name)

    def say(self, name: str) -> None:
        """Print a line."""
        passed = time.monotonic() - self._start
        print(
            f"... {self.calls:>9,} of {self._all:,} calls, {self.calls / passed:,.0f}/s, {len(self.failures)} failed: {name}",
            flush=True,
        )


def fuzz(subject: Subject, calls: int, start: int, progress: Progress) -> None:
    """Run one subject in its own process."""
    ours, theirs = socket.socketpair()
    before = progress.calls
    with contextlib.ExitStack() as stack:
        if subject.name == wire.SUBJECT.name:
            stack.enter_context(wire.daemon())
        child = os.fork()
        if child == 0:
            ours.close()
            reporter = Reporter(theirs)
            try:
                if subject.name == wire.SUBJECT.name:
                    wire.become_user()
                run(subject, calls, start, reporter)
                os._exit(0)
            except BaseException:
                reporter.fail(f"{subject.name}: {traceback.format_exc()}")
            finally:
                os._exit(1)
        theirs.close()
        began = time.monotonic()
        with ours:
            for kind, value in messages(ours):
                progress.take(subject.name, kind, value)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            progress.take(subject.name, "failed", f"{subject.name}: ended by signal {os.WTERMSIG(status)}")
        done = progress.calls - before
        print(f"{subject.name}: {done:,} calls in {time.monotonic() - began:.0f} s", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the chosen subjects, one after the other."""
    calls = int(os.environ.get("CALLS") or _DEFAULT_CALLS)
    start = int(os.environ.get("FUZZ_SEED") or 0)
    chosen = [name.strip() for name in os.environ.get("SUBJECT", "").split(",") if name.strip()]
    if unknown := set(chosen) - {subject.name for subject in SUBJECTS}:
        print(f"no such subject: {', '.join(unknown)}; there are: {', '.join(one.name for one in SUBJECTS)}", file=sys.stderr)
        return 2
    subjects = [subject for subject in SUBJECTS if subject.name in chosen or not chosen]
    budget = sum(subject.share for subject in subjects)
    progress = Progress(calls)
    print(f"{calls:,} calls, FUZZ_SEED={start}", flush=True)
    for subject in subjects:
        fuzz(subject, max(1, round(calls * subject.share / budget)), start, progress)
    print(f"FUZZ_SEED={start}")
    print(f"{progress.calls} passed, {len(progress.failures)} failed", flush=True)
    return 1 if progress.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
