"""Who the caller is to the broker, and what rules let it open at all."""

import os
import pwd
from collections.abc import Sequence

from nsbroker.cli.diagnosis.row import Row, Verdict
from nsbroker.client.blocking import Broker
from nsbroker.errors import PermissionDenied
from nsbroker.linux.features import features
from nsbroker.model.target import Target
from nsbroker.protocol.messages import TypeVerdict

_SUBJECT = "rights"


def check(broker: Broker) -> list[Row]:
    """Return rows about the caller and its own namespaces.  Raises the errors of `Broker.who_am_i` and `Broker.explain`."""
    peer = broker.who_am_i()
    place = "".join(f", in {what}" for what in (peer.unit, peer.container) if what)
    rows = [Row(Verdict.OK, "you", f"the broker sees uid {peer.uid} ({_user_name(peer.uid)}), process {peer.pid}{place}")]
    if peer.anonymous:
        text = "the broker cannot tell who has this uid, so only rules for everyone apply"
        rows.append(Row(Verdict.WARN, "you", text, "use Linux 6.5 or later, or a process outside of user namespaces"))
    if peer.container_unknown:
        text = f"rules for your container do not apply, since it is unknown: {peer.container_unknown}"
        rows.append(Row(Verdict.WARN, "you", text, "see to it that the engine answers the broker"))
    verdicts = _explain_own(broker)
    rules = dict.fromkeys(verdict.rule for verdict in verdicts if verdict.rule)
    denied = [str(verdict.type) for verdict in verdicts if not verdict.allowed]
    if rules:
        left_out = f", but not {', '.join(denied)}" if denied else ""
        text = f"you may open your own namespaces by the rule {', '.join(map(str, rules))}{left_out}"
        return [*rows, Row(Verdict.OK, _SUBJECT, f"{text}; `nsbroker explain TARGET` tells about others")]
    text = "no rule lets you open even your own namespaces"
    return [*rows, Row(Verdict.WARN, _SUBJECT, text, "ask root for a rule in /etc/nsbroker/nsbroker.d, or for `nsbroker grant`")]


def _explain_own(broker: Broker) -> Sequence[TypeVerdict]:
    """Return what rules say about the caller's own namespaces."""
    if features().peer_pidfd:
        return broker.explain("self").verdicts
    # Before Linux 6.5 the broker does not know which process the caller is, so there is no `self`.
    fd = os.pidfd_open(os.getpid())
    try:
        return broker.explain(Target.pidfd(fd)).verdicts
    except PermissionDenied:
        # It tells nothing of a process of which no rule gives anything.
        return []
    finally:
        os.close(fd)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return "no name"
