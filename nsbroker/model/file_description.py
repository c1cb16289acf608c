"""Descriptions of files: their names and kinds, as the interface names these, and as st_mode has them (inode(7))."""

import enum
import stat

from msgspec import Struct


class FileKind(enum.StrEnum):
    """What kind of file a name is for."""

    DEVICE = "device"
    BLOCK = "block"
    DIRECTORY = "directory"
    LINK = "link"
    SOCKET = "socket"
    FIFO = "fifo"
    FILE = "file"

    @classmethod
    def of_mode(cls, mode: int) -> "FileKind":
        """Return the kind of a file with this st_mode.  `device` is a character device, and `link` a symbolic link."""
        return _KINDS.get(stat.S_IFMT(mode), cls.FILE)


_KINDS = {
    stat.S_IFCHR: FileKind.DEVICE,
    stat.S_IFBLK: FileKind.BLOCK,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.LINK,
    stat.S_IFSOCK: FileKind.SOCKET,
    stat.S_IFIFO: FileKind.FIFO,
}


class FileDescription(Struct, frozen=True):
    """A name below /dev, and what kind of file it is for."""

    name: str
    kind: FileKind
