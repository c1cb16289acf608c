"""The metrics of networks, in the form in which prometheus_client prints them.  The names are close to those of node_exporter."""

from collections.abc import Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from nsbroker.cli.exporter.networks import Networks, Reading, View
from nsbroker.cli.exporter.targets import Labels
from nsbroker.model.text import escaped

LABELS = Labels._fields

_LINK_COUNTERS = {
    "bytes": "Bytes that a link has {}.",
    "packets": "Packets that a link has {}.",
    "errs": "Errors of a link, of packets that it should have {}.",
    "drop": "Packets that were dropped, which a link should have {}.",
}
_TCP_COUNTERS = {
    "InSegs": ("tcp_received_segments", "TCP segments that were received."),
    "OutSegs": ("tcp_sent_segments", "TCP segments that were sent, without retransmitted ones."),
    "RetransSegs": ("tcp_retransmitted_segments", "TCP segments that were sent again."),
    "ListenOverflows": ("tcp_listen_overflows", "Connections for which the queue of a listening socket had no room."),
    "ListenDrops": ("tcp_listen_drops", "Connections that a listening socket dropped, for this or any other reason."),
}
_PROTOCOLS = ("TCP", "UDP", "RAW", "TCP6", "UDP6", "RAW6")


class NetworkCollector(Collector):
    """Reads all networks at each scrape.  Borrows `networks`."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        view = self._networks.read()
        yield GaugeMetricFamily(
            "nsbroker_broker_up", "Whether the broker answered when it was last asked what there is.", value=view.broker_up
        )
        yield _engines(view)
        yield _up(view.readings)
        yield _containers(view.readings)
        yield from _links(view.readings)
        yield _tcp_states(view.readings)
        yield from _tcp_counters(view.readings)
        yield from _sockets(view.readings)


def _engines(view: View) -> Metric:
    family = GaugeMetricFamily(
        "nsbroker_engine_up",
        "Whether the broker could list the containers of an engine that has some, or failed.",
        labels=["engine"],
    )
    known = {target.labels.engine for target, _ in view.readings if target.users}
    for engine in sorted(known | view.silent.keys()):
        family.add_metric([engine], engine not in view.silent)
    return family


def _up(readings: Sequence[Reading]) -> Metric:
    family = GaugeMetricFamily("nsbroker_target_up", "Whether the statistics of a network could be read.", labels=LABELS)
    for target, statistics in readings:
        family.add_metric(target.labels, statistics is not None)
    return family


def _containers(readings: Sequence[Reading]) -> Metric:
    family = GaugeMetricFamily(
        "nsbroker_container_info",
        "A container, and in `network` the label `container` of the network that it uses, which containers can share.",
        labels=[*LABELS, "network"],
    )
    for target, _ in readings:
        for user in target.users:
            family.add_metric([*user, target.labels.container], 1)
    return family


def _links(readings: Sequence[Reading]) -> Iterator[Metric]:
    links = [
        ([*target.labels, escaped(link.name)], link)
        for target, statistics in readings
        if statistics is not None
        for link in statistics.links
    ]
    labels = [*LABELS, "device"]
    for field, (name, help_text) in enumerate(_LINK_COUNTERS.items()):
        received = CounterMetricFamily(f"nsbroker_network_receive_{name}", help_text.format("received"), labels=labels)
        sent = CounterMetricFamily(f"nsbroker_network_transmit_{name}", help_text.format("sent"), labels=labels)
        for values, link in links:
            received.add_metric(values, link.received[field])
            sent.add_metric(values, link.sent[field])
        yield received
        yield sent


def _tcp_states(readings: Sequence[Reading]) -> Metric:
    family = GaugeMetricFamily("nsbroker_tcp_connection_states", "TCP sockets in each state.", labels=[*LABELS, "state"])
    for target, statistics in readings:
        if statistics is not None:
            for state, number in statistics.tcp_states.items():
                family.add_metric([*target.labels, state], number)
    return family


def _tcp_counters(readings: Sequence[Reading]) -> Iterator[Metric]:
    for key, (name, help_text) in _TCP_COUNTERS.items():
        family = CounterMetricFamily(f"nsbroker_{name}", help_text, labels=LABELS)
        for target, statistics in readings:
            if statistics is not None and key in statistics.tcp:
                family.add_metric(target.labels, statistics.tcp[key])
        yield family


def _sockets(readings: Sequence[Reading]) -> Iterator[Metric]:
    used = GaugeMetricFamily("nsbroker_sockets_used", "Sockets of all families, as sockstat counts them.", labels=LABELS)
    in_use = GaugeMetricFamily("nsbroker_sockets_in_use", "Sockets in use, by protocol.", labels=[*LABELS, "protocol"])
    for target, statistics in readings:
        if statistics is None:
            continue
        if "sockets" in statistics.sockets:
            used.add_metric(target.labels, statistics.sockets["sockets"]["used"])
        for protocol in _PROTOCOLS:
            if protocol in statistics.sockets:
                in_use.add_metric([*target.labels, protocol], statistics.sockets[protocol]["inuse"])
    yield used
    yield in_use
