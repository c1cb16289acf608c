"""The methods of the blocking client, and the watch.

Generated from `async_methods` by `make generate`: change that file instead.
"""

import io
import os
from abc import abstractmethod
from collections.abc import Iterable
from typing import Self, TypeVar

from nsbroker.client import file_requests, held_requests, interface_requests, requests, results
from nsbroker.client.blocking_calls import BlockingCalls, OpenedTargets
from nsbroker.client.events import Event
from nsbroker.client.forking import Forked
from nsbroker.client.pending import PendingCall
from nsbroker.errors import ConnectionLost
from nsbroker.model.description import NamespaceDescription
from nsbroker.model.file_description import FileDescription
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import DeviceDescription, ExplainReply, HeldDescription, PeerDescription, Status

T = TypeVar("T")
# Inside the class, `list` is a method.
List = list


class BlockingMethods(BlockingCalls):
    """The methods of the broker that a client can call.  Subclasses do the I/O."""

    def open(self, target: requests.TargetLike, type: str, *, expect: Expectation | None = None) -> Namespace:
        """Open one namespace of `target`; the handle is the caller's to close.

        Raises TargetChanged if the target is not what `expect` says, and the other errors of `nsbroker.errors`.
        """
        opened = self._call(requests.open_namespaces(target, [type], expect))
        return opened.popitem()[1]

    def open_all(
        self, target: requests.TargetLike, types: Iterable[str] | None = None, *, expect: Expectation | None = None
    ) -> dict[NamespaceType, Namespace]:
        """Open several namespaces of `target` (`types` None: every type it has); the handles are the caller's to close.

        If one of them cannot be opened, none is.  Raises the errors of `open`.
        """
        return self._call(requests.open_namespaces(target, types, expect))

    def open_many(self, targets: Iterable[requests.TargetLike], types: Iterable[str] | None = None) -> OpenedTargets:
        """Open namespaces of many targets (`types` None: every type that each has), with many calls under way at once.

            with broker.open_many(["docker:web", "docker:db"], ["net"]) as opened:
                for target, namespaces in opened: ...

        Each item is a target, in the order of `targets`, and what `open_all` returns for it (the handles are the caller's to
        close) or the NsbrokerError that it raises.  `targets` is read as it is needed, and may have no end.  When the context
        ends, handles that nobody has taken are closed.

        The iterator itself raises ConnectionFailed, ConnectionLost or Timeout when the broker cannot be reached any longer.
        """
        return OpenedTargets(self, targets, types)

    def explain(
        self,
        target: requests.TargetLike,
        types: Iterable[str] | None = None,
        *,
        sockets: Iterable[str] | None = None,
        devices: Iterable[str] | None = None,
        marks: Iterable[int] | None = None,
        interfaces: Iterable[str] | None = None,
        files: Iterable[str] | None = None,
        who: Iterable[str] | None = None,
    ) -> ExplainReply:
        """Return whether the policy allows these types of namespaces, sockets, devices, marks, interfaces and files.

        They are written as in a rule, such as inet:stream and veth.  Nothing is opened.  Without any of them, the reply is about
        every type that the target has.

        With `who`, it is about somebody else, which only root may ask: `["user:bob"]`, and further groups, a unit and a container
        if needed, as in a rule.  Then the reply also says how each rule fits.  Raises InvalidParameter for an unknown user.
        """
        return self._call(requests.explain(target, types, sockets, devices, marks, interfaces, files, who))

    def list(self, types: Iterable[str] | None = None, *, target: requests.TargetLike | None = None) -> List[NamespaceDescription]:
        """Return the namespaces that this process may open, of `types` (None: all); with `target`, only those of the target.

        A description counts and names only the processes and files that give this process access to the namespace.
        """
        return self._call(requests.list_namespaces(types, target))

    def watch(self, types: Iterable[str] | None = None, *, open: Iterable[str] | None = None) -> "Watch":
        """Watch the namespaces that this process may open, of `types` (None: all).

            with broker.watch(["net"]) as events:
                for event in events: ...

        First there is an event `present` for each namespace that exists, then `ready`, then an event for each change.  With
        `open`, the events `present` and `added` of these types have a `handle` of the namespace, which is the caller's to close.
        The watch has a connection of its own.  Raises the errors of `list`.
        """
        return Watch(self, requests.watch(types, open))

    def containers(self) -> requests.ContainerList:
        """Return the containers of which this process may open a namespace, and the engines that could not be asked."""
        return self._call(requests.list_containers())

    def devices(self, target: requests.TargetLike) -> List[DeviceDescription]:
        """Return the character devices below the /dev of `target` that this process may open."""
        return self._call(requests.list_devices(target, results.devices))

    def device_names(self, target: requests.TargetLike) -> List[FileDescription]:
        """Return every name below the /dev of `target`, with its kind, if this process may open every device there.

        Otherwise these are the names of the devices that it may open.  Directories are listed four levels deep.
        """
        return self._call(requests.list_devices(target, results.device_names))

    def device(self, target: requests.TargetLike, name: str, flags: int = os.O_RDONLY) -> io.FileIO:
        """Open a character device below the /dev of `target`; the file is the caller's to close.

        `name` is the path below /dev, such as null or net/tun.  `flags` are os.O_RDONLY, os.O_WRONLY or os.O_RDWR, and perhaps
        os.O_NONBLOCK; os.O_NOCTTY always holds.  Raises ValueError for any other flag, NoSuchDevice, and the errors of `open`.
        """
        return self._call(requests.open_device(target, name, flags))

    def at(self, target: requests.TargetLike) -> "DeviceFolder":
        """Return a client of the devices of one target, for those who open many of them; nothing is asked yet.

            with broker.at("docker:web") as dev:
                names = dev.listdir()

        It uses this connection, and names the target anew with each call.
        """
        return DeviceFolder(self, target)

    def file(self, target: requests.TargetLike, name: str) -> io.FileIO:
        """Open a file of `target` for reading, in binary and without a buffer; it is the caller's to close.

        `name` is resolv.conf or hosts, a copy of which is sent, or a file of the target's network, such as net/dev (the list is
        `nsbroker.model.target_file.NAMES`).  After `seek(0)`, a file of the network can be read again, as it is by then.  It keeps
        the network namespace alive.  Raises NoSuchFile, InvalidParameter for any other name, and the errors of `open`.
        """
        return self._call(file_requests.open_file(target, name))

    def add_veth(self, target: requests.TargetLike, name: str, peer: requests.TargetLike, peer_name: str) -> None:
        """Add a pair of veth: `name` in the network of `target`, `peer_name` in the network of `peer`, both set up.

        Addresses and routes are up to whoever may change these networks.  Raises InvalidTarget for a name that is none,
        InterfaceFailed, QuotaExceeded, and the errors of `open`.
        """
        self._call(interface_requests.add_veth(target, name, peer, peer_name))

    def add_tap(self, target: requests.TargetLike, name: str) -> io.FileIO:
        """Add a tap `name` to the network of `target`, set up; the file is the caller's to close.

        Each read returns one Ethernet frame that the network sends through the tap, and each write sends one to the network.
        The tap lasts until the file and all its copies are closed.  Raises the errors of `add_veth`.
        """
        return self._call(interface_requests.add_tap(target, name))

    def create(self, types: Iterable[str], *, name: str | None = None, up: bool = False) -> held_requests.Created:
        """Create new namespaces; the handles are the caller's to close.

        With `name`, the broker also holds the namespaces until `release`.  With `up`, it sets the interface lo in the new network
        up.  Raises NameTaken, QuotaExceeded, PermissionDenied.
        """
        return self._call(held_requests.create(types, name, up))

    def hold(self, target: requests.TargetLike, name: str, types: Iterable[str] | None = None) -> bool:
        """Make the broker hold namespaces of `target` (`types` None: every type it has) under `name` until `release`.

        Returns whether they survive a restart of the broker.  Raises the errors of `create` and `open`.
        """
        return self._call(held_requests.hold(target, types, name))

    def release(self, name: str) -> None:
        """Make the broker stop holding what it holds under `name` for this user.  Raises PermissionDenied, NoSuchTarget."""
        self._call(held_requests.release(name))

    def held(self) -> List[HeldDescription]:
        """Return the namespaces that the broker holds for this user, and those held for others that this user may open."""
        return self._call(held_requests.list_held())

    def restrict(
        self,
        targets: Iterable[str],
        *,
        namespaces: Iterable[str] = (),
        sockets: Iterable[str] = (),
        devices: Iterable[str] = (),
        files: Iterable[str] = (),
        create: Iterable[str] = (),
        hold: Iterable[str] = (),
        marks: Iterable[str] = (),
        interfaces: Iterable[str] = (),
    ) -> None:
        """Give up rights, for good: from now on only these permissions are left, for these targets, as far as the policy allows.

            broker.restrict(["docker:web-*"], namespaces=["net"], sockets=["inet:stream"])

        All arguments are written as in a rule of the policy, also "own" and "*".  A further call leaves only what is within all
        of them.  What is outside raises PermissionDenied, as if no rule allowed it.  The restriction stays when the client
        connects again, and in a forked child: it is made before anything else is sent.  What is open already, and watches that
        have begun, stay as they are.

        Raises InvalidParameter, InvalidType, QuotaExceeded for too many restrictions, RecordFailed, and MethodNotFound if the
        broker is older.  After ConnectionLost, the restriction counts as made.
        """
        self._call(requests.restrict(targets, namespaces, sockets, devices, files, create, hold, marks, interfaces))

    def who_am_i(self) -> PeerDescription:
        """Return who this process is, as the broker sees it."""
        return self._call(requests.who_am_i())

    def status(self) -> Status:
        """Return the state of the broker."""
        return self._call(requests.status())

    @abstractmethod
    def _open_another(self, request: requests.Request[T]) -> Self:
        """Return another client for `request`, with a new connection to the same broker that is as restricted as this one.

        Raises ConnectionLost if there is no address to connect to.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection.  Opened handles stay open.  Closing twice does nothing."""


class DeviceFolder:
    """The /dev of one target, as far as this process may open what is there.  Use `Broker.at`.

    A context manager.  After `close`, its methods raise ValueError; the connection and the opened devices stay open.
    """

    def __init__(self, broker: BlockingMethods, target: requests.TargetLike) -> None:
        """Use `Broker.at`.  Borrows `broker`.  Raises InvalidTarget."""
        self._broker = broker
        self._target = requests.parse_target(target)
        self.closed = False
        """Whether it was closed."""

    @property
    def name(self) -> str:
        """The target, as rules and errors write it."""
        return requests.target_text(self._target)

    def listdir(self, path: str = "") -> List[str]:
        """Return the sorted names in the folder `path` below the target's /dev.

        These are all names, of directories, links and other files, too, if this process may open every device there.  Otherwise
        these are the devices that it may open, and the folders with such devices.  Raises NoSuchDevice if there is no such
        folder or nothing is left of it, and the errors of `devices`.
        """
        self._check_open()
        return results.names_in(path, self._broker.device_names(self._target), self.name)

    def open(self, name: str, flags: int = os.O_RDONLY) -> io.FileIO:
        """Open the character device `name` below the target's /dev; the file is the caller's to close.

        The arguments and errors are those of `device`.
        """
        self._check_open()
        return self._broker.device(self._target, name, flags)

    def close(self) -> None:
        """Give the target up.  Closing twice does nothing."""
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"the devices of {self.name} are closed")


class Watch(Forked):
    """A watch: a context manager, and an iterator of events that does not end by itself.

    If the wait for an event is cancelled (trio, asyncio), it can be repeated, and no event is lost.

    It belongs to the process that started it.  It cannot be used in a forked child.
    """

    def __init__(self, broker: BlockingMethods, request: requests.Request[None]) -> None:
        """Use `Broker.watch`.  Borrows `broker`; the events arrive on a connection of its own."""
        self._original = broker
        self._request = request
        self._call = PendingCall(request, streams=True)
        self._broker: BlockingMethods | None = None
        self._end_reason = "is closed"
        super().__init__()

    def __enter__(self) -> Self:
        self._call = PendingCall(self._request, streams=True)
        self._broker = broker = self._original._open_another(self._request)
        try:
            broker._begin(self._call)
        except BaseException:
            self.close()
            raise
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        broker, call = self._broker, self._call
        if broker is None or broker._transport.closed:
            raise ConnectionLost(f"{self._request.what()}: this watch {self._end_reason}")
        broker._settle(call)
        if not call.replies:
            self.close()
            raise call.error or AssertionError("a call without replies is settled by an error")
        reply = call.take_reply()
        if reply.last:
            self._end_reason = "was ended by the broker"
            self.close()
        return requests.read_event(self._request, reply)

    def close(self) -> None:
        """End the watch.  Closing twice does nothing."""
        if self._broker is not None:
            self._broker.close()
        self._call.abandon()

    def after_fork(self) -> None:
        """End the watch in the child."""
        self._end_reason = "belongs to the process that this one was forked from; start another"
        if self._broker is not None:
            self._broker._transport.closed = True

    def __exit__(self, *_: object) -> None:
        self.close()
