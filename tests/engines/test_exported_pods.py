"""The labels of a real pod, whose containers share one network."""

from collections.abc import Iterator

import pytest

from tests.engines import real
from tests.engines.conftest import started
from tests.exporter_process import PERMISSIONS, Exporter
from tests.world import ALICE, Daemon

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cri() -> Iterator[real.Engine]:
    yield from started(real.Cri)


def test_a_pod_is_one_network_with_the_names_of_kubernetes(cri: real.Engine, daemon: Daemon) -> None:
    daemon.allow("exporter", who=[f"user:{ALICE}"], targets=["cri:*/*", "cri:*/*/*"], **PERMISSIONS)
    cri.make("shop/web/c1")
    try:
        with Exporter(daemon, ALICE) as exporter:
            scrape = exporter.shows("cri:shop/web")
            assert scrape.value("network_receive_bytes_total", pod="web", namespace="shop", device="lo") is not None
            users = {one.labels["container"]: one.labels["network"] for one in scrape.samples("container_info", pod="web")}
            assert users == {"shop/web": "shop/web", "shop/web/c1": "shop/web"}
    finally:
        cri.remove("shop/web/c1")
    assert exporter.errors == ""
