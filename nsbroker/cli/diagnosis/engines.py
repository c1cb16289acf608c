"""Which container engines answer the broker."""

from nsbroker.cli.diagnosis.row import Row, Verdict
from nsbroker.client.blocking import Broker

_SUBJECT = "engines"


def check(broker: Broker) -> list[Row]:
    """Return a row for the containers, and one for each engine that did not answer.  Raises the errors of `Broker.containers`."""
    containers, unavailable = broker.containers()
    names = ", ".join(dict.fromkeys(one.engine for one in containers))
    found = f"{len(containers)} containers that you may open, of {names}" if containers else "no container that you may open"
    rows = [Row(Verdict.OK, _SUBJECT, found)]
    for engine in unavailable:
        advice = f"start it, or write `{engine.engine} = []` under [engines] in the configuration if it is not used"
        rows.append(Row(Verdict.WARN, _SUBJECT, f"{engine.engine} does not answer: {engine.reason}", advice))
    return rows
