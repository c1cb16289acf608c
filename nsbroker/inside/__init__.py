"""Running a function inside namespaces, on a thread of its own that never serves anyone else.

`call` here is for threads and scripts; `nsbroker.inside.trio` and `nsbroker.inside.asyncio` do not block their loop.
"""

from nsbroker.inside.blocking import call
from nsbroker.inside.visit import enter

__all__ = ["call", "enter"]
