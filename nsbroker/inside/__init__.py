"""Running a function inside namespaces, each time on a new thread that is used for nothing else.

`call` blocks, for use in scripts and threads.  `nsbroker.inside.trio` and `nsbroker.inside.asyncio` have versions that do
not block their event loop.  `nsbroker.inside.in_place` uses the calling thread, for what never waits.  `enter` and `setns` move
the calling thread itself, for good.
"""

from nsbroker.inside.blocking import call
from nsbroker.inside.entering import setns
from nsbroker.inside.visit import enter

__all__ = ["call", "enter", "setns"]
