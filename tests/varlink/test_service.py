"""How a service describes itself by org.varlink.service.  The parser is the reference implementation of varlink, not ours."""

from pathlib import Path

import pytest
import varlink

from nsbroker.errors import InterfaceNotFound
from nsbroker.varlink.service import NAME, Service

TEXT = "interface org.example.Demo\n\n# Say grün.\nmethod Say() -> (text: string)\n"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "demo.varlink").write_text(TEXT, encoding="utf-8")
    return Service("a vendor", "a product", "7", "https://example.org", {"org.example.Demo": tmp_path / "demo.varlink"})


def test_the_standard_interface_is_listed_before_those_of_the_service(service: Service) -> None:
    info = service.info()
    assert (info.vendor, info.product, info.version, info.url) == ("a vendor", "a product", "7", "https://example.org")
    assert info.interfaces == ["org.varlink.service", "org.example.Demo"]


def test_the_description_of_each_listed_interface_is_valid_and_has_its_name(service: Service) -> None:
    for name in service.info().interfaces:
        assert varlink.Interface(service.description(name).description).name == name
    assert service.description("org.example.Demo").description == TEXT
    assert {"GetInfo", "GetInterfaceDescription"} <= varlink.Interface(service.description(NAME).description).members.keys()


@pytest.mark.parametrize("name", ["", "org.example", "org.example.demo", "../demo"])
def test_another_interface_is_not_found(service: Service, name: str) -> None:
    with pytest.raises(InterfaceNotFound) as missing:
        service.description(name)
    assert missing.value.interface == name
