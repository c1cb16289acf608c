"""Which features of newer kernels are there, and what is different without the others."""

import os
from collections.abc import Mapping

from nsbroker.cli.diagnosis.row import Row, Verdict
from nsbroker.linux.features import Features

# By the fields of Features: the system call, the version of Linux that brought it, and what it changes.
_EFFECTS: Mapping[str, str] = {
    "peer_pidfd": "SO_PEERPIDFD, Linux 6.5: without it, only rules for everyone apply to root and to root of a container",
    "pidfd_thread": "PIDFD_THREAD, Linux 6.9: without it, threads are opened through /proc",
    "pidfd_namespaces": "PIDFD_GET_NET_NAMESPACE and others, Linux 6.11: without it, namespaces are opened through /proc",
    "pid_translation": "NS_GET_TGID_FROM_PIDNS, Linux 6.11: without it, callers in another PID namespace than the broker's cannot "
    "name a process by its number",
    "pidfd_info": "PIDFD_GET_INFO, Linux 6.13: without it, credentials are read from /proc",
    "namespace_id": "NS_GET_ID, Linux 6.18: without it, namespaces have no id that is never used again",
}
# Without these, something is different for users; without the others it only takes longer.
_MISSED = ("peer_pidfd", "pid_translation")


def check(features: Features) -> list[Row]:
    """Return a row for the kernel, and one for each missing feature that users notice."""
    release = os.uname().release
    missing = [name for name in _EFFECTS if not getattr(features, name)]
    there = [name for name in _EFFECTS if name not in missing]
    text = f"Linux {release} has {', '.join(there) or 'none of the newer features'}"
    slower = [name for name in missing if name not in _MISSED]
    if slower:
        text += f"; it lacks {', '.join(slower)}, for which there are other ways"
    rows = [Row(Verdict.OK, "kernel", text)]
    advice = "update the kernel if that matters to you"
    return rows + [Row(Verdict.WARN, "kernel", f"it lacks {_EFFECTS[name]}", advice) for name in missing if name in _MISSED]
