"""Run scans one at a time, and share each with all who asked before it began."""

import contextlib
import math
from collections.abc import Iterator

import trio

from nsbroker.daemon.discovery import scan
from nsbroker.daemon.discovery.scan_result import ScanResult
from nsbroker.daemon.discovery.stall_guard import Progress, Stalled, StallGuard
from nsbroker.daemon.targets.location_cache import LocationCache
from nsbroker.errors import TimedOut
from nsbroker.linux.procfs import thread_runs

# Threads that may be blocked at once by processes whose entries in /proc cannot be read.
_THREADS_MAX = 16
# Seconds without progress after which a scan is given up.  On a busy host, its thread may get no processor for as long, and a
# process with very many descriptors takes long to look at: as long as the thread runs, it is given up only after _BUSY_MAX seconds.
_STALLED = 1.0
_BUSY_MAX = 10.0
# While somebody watches, the pause after a full scan is its duration divided by the share, but at most five seconds.  Scans
# that are made in the pause are quick ones.
_FULL_SHARE = 0.1
_FULL_PAUSE_MAX = 5.0


class Scanner:
    """Runs scans on a thread.  `took`: the seconds that the last scan took."""

    def __init__(self, locations: LocationCache) -> None:
        self._locations = locations
        self._guard = StallGuard()
        self._lock = trio.Lock()
        self._started = 0
        self._completed = 0
        self._completed_full = 0
        self._shared: ScanResult | None = None
        self._threads = trio.CapacityLimiter(_THREADS_MAX)
        self._ended = -math.inf
        self.took = 0.0
        # What quick scans build on while somebody follows, and when the next full scan is due.
        self._followers = 0
        self._last: ScanResult | None = None
        self._full_due = 0.0

    async def fresh(self, *, patient: bool = False) -> ScanResult:
        """Return a full scan that begins after this call.

        With `patient`, first wait for as long as the last scan took.  Scans for patient callers thus take half of the time at
        most, so that users who ask again and again leave some of it to everybody else.
        """
        if patient:
            await trio.sleep_until(self._ended + self.took)
        return await self._scan_from_now(quick=False)

    async def quick(self) -> ScanResult:
        """Return a scan that begins after this call.  Call it within `following`.

        Most of these scans look only at what has changed since the last one; `earlier_scan` says what they can miss.  A full
        scan comes within ten seconds, or more often where it takes little time.
        """
        return await self._scan_from_now(quick=True)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Keep the last scan while the block runs, so that `quick` can build on it."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._last = None

    async def _scan_from_now(self, *, quick: bool) -> ScanResult:
        before = self._started
        async with self._lock:
            if self._shared is None or (self._completed if quick else self._completed_full) <= before:
                result = self._shared = await self._scan_once(quick=quick)
            else:
                result = self._shared
            if not self._lock.statistics().tasks_waiting:
                # Nobody waits for it any more.  It is large on large hosts, so only the callers keep it now.
                self._shared = None
            return result

    async def _scan_once(self, *, quick: bool) -> ScanResult:
        self._started += 1
        began = trio.current_time()
        known = self._last if quick and began < self._full_due else None
        # Shielded: a caller that hangs up must not leave a blocked thread behind for which no process is blamed.
        with trio.CancelScope(shield=True):
            result = await self._scan_until_done(known)
        self._ended = now = trio.current_time()
        self.took = now - began
        self._completed = self._started
        if known is None:
            self._completed_full = self._completed
            self._full_due = now + min(self.took / _FULL_SHARE, _FULL_PAUSE_MAX)
        if self._followers:
            self._last = result
        self._locations.learn(result.places)
        return result

    async def _scan_until_done(self, known: ScanResult | None) -> ScanResult:
        while True:
            progress = Progress(self._guard)
            made: list[ScanResult] = []
            failed: list[Exception] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_on_thread, progress, known, made, failed, nursery.cancel_scope)
                count, moved = -1, 0.0
                while count != progress.count or (trio.current_time() < moved + _BUSY_MAX and thread_runs(progress.tid)):
                    if count != progress.count:
                        count, moved = progress.count, trio.current_time()
                    await trio.sleep(_STALLED)
                progress.give_up()
                nursery.cancel_scope.cancel()
            if failed:
                raise failed[0]
            if made:
                return made[0]
            if not self._threads.available_tokens:
                raise TimedOut("processes blocked every attempt to scan the host")

    async def _run_on_thread(
        self,
        progress: Progress,
        known: ScanResult | None,
        made: list[ScanResult],
        failed: list[Exception],
        scope: trio.CancelScope,
    ) -> None:
        def work() -> None:
            progress.begin()
            try:
                made.append(scan.scan_host(progress, known))
            except Stalled:
                pass
            except Exception as error:
                failed.append(error)
            finally:
                progress.end()

        await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
        scope.cancel()
