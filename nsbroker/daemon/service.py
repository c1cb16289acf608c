"""The daemon as a whole: configuration, socket, signals, and what the service manager is told."""

import ctypes
import gc
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import trio

from nsbroker.daemon import configuration
from nsbroker.daemon.audit import Audit, open_audit
from nsbroker.daemon.broker import Broker
from nsbroker.daemon.engines.roster import Roster
from nsbroker.daemon.limits import Ledger
from nsbroker.daemon.listen import Listener, own_socket, passed_socket
from nsbroker.daemon.policy import Policy
from nsbroker.daemon.server import Server
from nsbroker.errors import ConfigurationError

_PR_SET_DUMPABLE = 4


def run(address: Path, config: Path | None) -> None:
    """Serve until SIGTERM or SIGINT.  Raises ConfigurationError when it cannot begin."""
    # Before anything can enter a namespace: nobody there may trace or read us.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _raise_file_limit()
    audit = open_audit()
    settings = configuration.load(config)
    policy = _compile(settings, audit)
    ledger = Ledger(settings.limits)
    broker = Broker(policy, _roster(settings), ledger, audit)
    passed = _passed_fds()
    listener = passed_socket(passed) if passed else own_socket(address)
    # What is here now stays: the collector need not look at it again and again.
    gc.freeze()
    try:
        trio.run(_serve, listener, Server(broker, ledger, audit), _reloader(broker, ledger, audit, config), audit)
    finally:
        listener.close()
        ledger.close()


async def _serve(listener: Listener, server: Server, reload: Callable[[], None], audit: Audit) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, listener.sock, stop)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            _notify("READY=1")
            audit.say(f"listening on {listener.sock.getsockname()}")
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                reload()
        _notify("STOPPING=1")
        # First out of sight, then answer those who came before.
        listener.withdraw()
        stop.set()


def _reloader(broker: Broker, ledger: Ledger, audit: Audit, config: Path | None) -> Callable[[], None]:
    def reload() -> None:
        try:
            settings = configuration.load(config)
            policy = _compile(settings, audit)
        except ConfigurationError as error:
            audit.say(f"the old policy stays in force: {error}")
            return
        except Exception as error:
            audit.say(f"the old policy stays in force; a fault of the broker's own: {type(error).__name__}: {error}")
            return
        broker.policy = policy
        broker.roster = _roster(settings)
        ledger.limits = settings.limits
        audit.say(f"reloaded: {len(policy.rules)} rules from {', '.join(map(str, settings.files))}")

    return reload


def _roster(settings: configuration.Configuration) -> Roster:
    return Roster(settings.engines, settings.limits.engine_deadline)


def _compile(settings: configuration.Configuration, audit: Audit) -> Policy:
    policy = Policy(settings)
    for warning in policy.warnings:
        audit.say(f"warning: {warning}")
    return policy


def _passed_fds() -> list[int]:
    try:
        from systemd.daemon import listen_fds
    except ImportError:
        return []
    return list(listen_fds())


def _notify(state: str) -> None:
    try:
        from systemd.daemon import notify
    except ImportError:
        return  # No service manager to tell, or none that we can talk to.
    notify(state)


def _raise_file_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
