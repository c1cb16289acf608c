"""What a device is opened for, as the interface names it and as open(2) does."""

import enum
import os


class DeviceAccess(enum.StrEnum):
    """What a device is opened for: reading, writing, or both."""

    READ = "read"
    WRITE = "write"
    READ_WRITE = "readWrite"

    @property
    def flags(self) -> int:
        """The flags for open(2)."""
        return {"read": os.O_RDONLY, "write": os.O_WRONLY, "readWrite": os.O_RDWR}[self]

    @classmethod
    def of_flags(cls, flags: int) -> "DeviceAccess":
        """Return the access mode in `flags` of open(2), and ignore the other flags.  Raises ValueError for no valid access mode."""
        for access in cls:
            if access.flags == flags & os.O_ACCMODE:
                return access
        raise ValueError(f"cannot open a device with the flags {flags:#o}: use os.O_RDONLY, os.O_WRONLY or os.O_RDWR")
