"""The metrics of the broker itself, from its status."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from nsbroker.model.text import escaped
from nsbroker.protocol.messages import Status


def text(status: Status) -> str:
    """Return the status in the text format of Prometheus.  What the broker did not tell this user is left out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StatusCollector(status))
    return generate_latest(registry).decode()


class _StatusCollector(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        status = self._status
        info = GaugeMetricFamily("nsbroker_broker_info", "The broker, and its version.", labels=["version"])
        info.add_metric([escaped(status.version)], 1)
        yield info
        yield _gauge("rules", "Rules in force.", status.rules)
        yield _gauge("rules_loaded_timestamp_seconds", "When the rules were loaded.", status.loaded)
        yield _gauge(
            "configuration_ok", "Whether the configuration was valid at the start, so that calls are not refused.",
            not status.configuration_fault,
        )  # fmt: skip
        yield _gauge("held_durable", "Whether held namespaces survive a restart of the broker.", status.held_durable)
        if status.calls is not None:
            # Only root is told the rest.
            yield from self._for_root(status.calls)

    def _for_root(self, calls: int) -> Iterator[Metric]:
        status = self._status
        yield _gauge("reload_ok", "Whether the last reload of the configuration worked.", not status.reload_fault)
        yield _gauge("connections", "Open connections.", status.connections or 0)
        yield _gauge("held_namespaces", "Namespaces that the broker holds.", status.held or 0)
        yield _counter("calls", "Calls of all methods, also of unknown ones.", calls)
        yield _counter("file_descriptors", "File descriptors that were sent to callers.", status.file_descriptors or 0)
        yield _counters("method_calls", "Calls of each method.", "method", status.calls_by_method or {})
        yield _counters("verdicts", "Decisions, by verdict.", "verdict", status.verdicts or {})
        yield _counters(
            "limits_reached", "Calls and connections that were refused because of a limit.", "limit", status.limits_reached or {}
        )
        durations = status.waiting_calls
        if durations is not None and len(durations.counts) == len(durations.bounds) + 1:
            bounds = [*(f"{bound:g}" for bound in durations.bounds), "+Inf"]
            buckets = list(zip(bounds, map(_number, accumulate(durations.counts)), strict=True))
            name = "nsbroker_broker_waiting_call_seconds"
            family = HistogramMetricFamily(name, "How long those calls took that were not answered at once.", labels=[])
            family.add_metric([], buckets, _number(durations.sum))
            yield family


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"nsbroker_broker_{name}", help_text, value=_number(value))


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"nsbroker_broker_{name}", help_text, value=_number(value))


def _counters(name: str, help_text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"nsbroker_broker_{name}", help_text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([escaped(key)], _number(value))
    return family


def _number(value: float) -> float:
    """Return a number of the broker's reply, which can be an integer that is too large for any other program."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")
