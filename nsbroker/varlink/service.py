"""org.varlink.service: what every service answers about itself."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from nsbroker.errors import InterfaceNotFound

NAME = "org.varlink.service"


class Nothing(Struct, forbid_unknown_fields=True):
    """No parameters."""


class Info(Struct):
    """The reply of GetInfo."""

    vendor: str
    product: str
    version: str
    url: str
    interfaces: list[str]


class DescriptionRequest(Struct, forbid_unknown_fields=True):
    """The parameters of GetInterfaceDescription."""

    interface: str


class Description(Struct):
    """The reply of GetInterfaceDescription."""

    description: str


class Service:
    """Names the service and its interfaces, each a file `NAME.varlink` in its folder."""

    def __init__(self, vendor: str, product: str, version: str, url: str, interfaces: Mapping[str, Path]) -> None:
        self._files = {NAME: Path(__file__).with_name(f"{NAME}.varlink"), **interfaces}
        self._info = Info(vendor, product, version, url, list(self._files))

    def info(self) -> Info:
        """GetInfo."""
        return self._info

    def description(self, interface: str) -> Description:
        """GetInterfaceDescription.  Raises InterfaceNotFound."""
        if interface not in self._files:
            raise InterfaceNotFound(interface)
        return Description(self._files[interface].read_text(encoding="utf-8"))
