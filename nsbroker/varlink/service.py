"""The interface org.varlink.service, by which every service describes itself."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from nsbroker.errors import InterfaceNotFound

NAME = "org.varlink.service"


class Nothing(Struct, forbid_unknown_fields=True):
    """The parameters of a method that takes none."""


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
    """The replies of org.varlink.service for one service."""

    def __init__(self, vendor: str, product: str, version: str, url: str, interfaces: Mapping[str, Path]) -> None:
        """Describe a service.  `interfaces` maps the name of each interface to the .varlink file with its text."""
        self._files = {NAME: Path(__file__).with_name(f"{NAME}.varlink"), **interfaces}
        self._info = Info(vendor, product, version, url, list(self._files))

    def info(self) -> Info:
        """Return the reply of GetInfo."""
        return self._info

    def description(self, interface: str) -> Description:
        """Return the reply of GetInterfaceDescription.  Raises InterfaceNotFound."""
        if interface not in self._files:
            raise InterfaceNotFound(interface)
        return Description(self._files[interface].read_text(encoding="utf-8"))
