"""Opening a path with rules for its resolution."""

import os
from pathlib import Path

import pytest

from nsbroker.linux.openat2 import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2


def test_openat2_refuses_links_when_asked_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(OSError, match="symbolic links"):
        openat2(str(tmp_path / "link" / "passwd"), os.O_RDONLY, resolve=RESOLVE_NO_SYMLINKS)
    with pytest.raises(OSError, match="symbolic links"):
        openat2("/proc/self/ns/net", os.O_RDONLY, resolve=RESOLVE_NO_MAGICLINKS)
