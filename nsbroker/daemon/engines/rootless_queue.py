"""Which user's own engines are asked when: each question starts a process, and no user shall keep the host busy with those.

One process of a user runs at a time, and after it there is a pause of some times its length, so that the user's share of
a processor is small however many questions wait.  Those who ask the same share one answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from nsbroker.daemon.engines.query import Survey
from nsbroker.daemon.engines.rootless import OwnQuestion, ask_own
from nsbroker.errors import EngineUnavailable

# Processes that ask users' own engines, of all users together.
_AT_ONCE = 4
# After a process that ran for a second, its user's next one starts no sooner than so many seconds later.
_PAUSE = 4.0


class _Run:
    """One process to come, and who waits for what it says."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.waiting = 0
        self.survey = Survey([], [])


class _User:
    """The runs that are to come, in turn; whoever asks the same before one begins shares its answer."""

    def __init__(self) -> None:
        self.runs: dict[OwnQuestion, _Run] = {}
        self.is_busy = False
        self.rests_until = 0.0


class OwnQueue:
    """Asks users' own engines, each user's in turn.  `deadline`: how long, in seconds, one process may take."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._users: dict[int, _User] = {}
        self._at_once = trio.CapacityLimiter(_AT_ONCE)

    async def ask(self, user: int, question: OwnQuestion) -> Survey:
        """What the own engines say, as soon as it is this user's turn; engines that did not answer are its failures.

        What is told was found out after the call began, never before.
        """
        with self._joined(user, question) as run:
            await run.done.wait()
            return run.survey

    @contextmanager
    def _joined(self, user: int, question: OwnQuestion) -> Iterator[_Run]:
        self._forget_rested()
        known = self._users.setdefault(user, _User())
        run = known.runs.setdefault(question, _Run())
        if not known.is_busy:
            known.is_busy = True
            # Not the caller's: others may wait for the same answer when the caller is gone.
            trio.lowlevel.spawn_system_task(self._work, known)
        run.waiting += 1
        try:
            yield run
        finally:
            run.waiting -= 1

    async def _work(self, user: _User) -> None:
        try:
            while user.runs:
                await trio.sleep_until(user.rests_until)
                question = next(iter(user.runs))
                run = user.runs[question]
                if not run.waiting:
                    del user.runs[question]
                    continue
                async with self._at_once:
                    # From here on it is too late to share: what was looked at already would be older than the question.
                    del user.runs[question]
                    began = trio.current_time()
                    run.survey = await self._run(question)
                ended = trio.current_time()
                user.rests_until = ended + _PAUSE * (ended - began)
                run.done.set()
        finally:
            user.is_busy = False

    async def _run(self, question: OwnQuestion) -> Survey:
        name = question.only or "own"
        try:
            with trio.fail_after(self._deadline):
                return await ask_own(question)
        except trio.TooSlowError:
            reason = f"uid {question.uid}'s own engines: no answer in {self._deadline:g} s"
        except EngineUnavailable as error:
            return Survey([], [error])
        except Exception as error:
            reason = f"uid {question.uid}'s own engines: {type(error).__name__}: {error}"
        return Survey([], [EngineUnavailable(name, reason)])

    def _forget_rested(self) -> None:
        now = trio.current_time()
        self._users = {uid: user for uid, user in self._users.items() if user.is_busy or user.rests_until > now}
