"""The state of the broker as metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nsbroker.cli.exporter import broker_metrics
from nsbroker.protocol.messages import CallDurations, Status


def metrics(status: Status) -> dict[str, float]:
    """Return the values by names, with their labels in braces."""
    families = text_string_to_metric_families(broker_metrics.text(status))
    samples = [sample for family in families for sample in family.samples]
    return {sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value for sample in samples}


def test_root_gets_every_number() -> None:
    status = Status(
        "1.2", {}, 3, 1e9, True, None, 4, 50, 60, 7, None, {"Open": 40}, {"allowed": 30, "denied": 2}, None, {"connections": 5}
    )
    assert metrics(status) == {
        "nsbroker_broker_info{1.2}": 1,
        "nsbroker_broker_rules": 3,
        "nsbroker_broker_rules_loaded_timestamp_seconds": 1e9,
        "nsbroker_broker_configuration_ok": 1,
        "nsbroker_broker_held_durable": 1,
        "nsbroker_broker_reload_ok": 1,
        "nsbroker_broker_connections": 4,
        "nsbroker_broker_held_namespaces": 7,
        "nsbroker_broker_calls_total": 50,
        "nsbroker_broker_file_descriptors_total": 60,
        "nsbroker_broker_method_calls_total{Open}": 40,
        "nsbroker_broker_verdicts_total{allowed}": 30,
        "nsbroker_broker_verdicts_total{denied}": 2,
        "nsbroker_broker_limits_reached_total{connections}": 5,
    }


def test_others_get_what_they_see_in_the_status() -> None:
    found = metrics(Status("1.2", {}, 3, 1e9, False, "only root is told what is wrong"))
    assert found["nsbroker_broker_configuration_ok"] == 0
    assert set(found) == {
        "nsbroker_broker_info{1.2}",
        *(f"nsbroker_broker_{name}" for name in ("rules", "rules_loaded_timestamp_seconds", "configuration_ok", "held_durable")),
    }


def test_durations_are_a_histogram_whose_buckets_add_up() -> None:
    durations = CallDurations([0.001, 0.5], [1, 2, 3], 4.5)
    found = metrics(Status("1", {}, 1, 1.0, True, calls=6, waiting_calls=durations))
    name = "nsbroker_broker_waiting_call_seconds"
    buckets = [found[f"{name}_bucket{{{bound}}}"] for bound in ("0.001", "0.5", "+Inf")]
    assert (buckets, found[f"{name}_count"], found[f"{name}_sum"]) == ([1, 3, 6], 6, 4.5)


@pytest.mark.parametrize("number", [-1, 10**400])
def test_a_broker_that_lies_is_no_failure_and_controls_no_terminal(number: int) -> None:
    nasty = '\x1b[31m\n\u202e"\\'
    durations = CallDurations([0.5, 0.1], [number], 1.0)
    status = Status(nasty, {}, number, 1e300, True, calls=number, verdicts={nasty: number}, waiting_calls=durations)
    assert all(line.isprintable() for line in broker_metrics.text(status).split("\n"))
