"""The .varlink files and the Structs agree.  The parser is the reference implementation of varlink, not ours."""

import inspect
import types
import typing
from pathlib import Path

import msgspec
import pytest
import varlink

from nsbroker.errors import WIRE_ERRORS, BrokerError, InvalidParameter
from nsbroker.model import description
from nsbroker.model.device_access import DeviceAccess
from nsbroker.model.file_description import FileDescription, FileKind
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketFamily, SocketType
from nsbroker.model.target import Target
from nsbroker.protocol import file_messages, interface_messages, messages
from nsbroker.protocol.target_spec import ExpectationSpec, TargetSpec
from nsbroker.varlink import service

OURS = varlink.Interface(messages.TEXT.read_text())
STANDARD = varlink.Interface((Path(inspect.getfile(service)).parent / f"{service.NAME}.varlink").read_text())

_PLAIN = {bool: "bool", int: "int", float: "float", str: "string"}

Struct = type[msgspec.Struct]

STRUCTS: dict[str, Struct] = {
    "Target": TargetSpec,
    "Expectation": ExpectationSpec,
    "OpenedNamespace": messages.OpenedNamespace,
    "Peer": messages.PeerDescription,
    "TypeVerdict": messages.TypeVerdict,
    "Container": messages.ContainerDescription,
    "UnavailableEngine": messages.UnavailableEngine,
    "HeldNamespace": messages.HeldDescription,
    "Reference": description.Reference,
    "LeadingProcess": description.LeadingProcess,
    "Namespace": description.NamespaceDescription,
    "SocketAddress": messages.SocketAddress,
    "Device": messages.DeviceDescription,
    "File": FileDescription,
    "InterfacePeer": interface_messages.InterfacePeer,
    "PermissionVerdict": messages.PermissionVerdict,
    "RuleVerdict": messages.RuleVerdict,
    "CallDurations": messages.CallDurations,
}
ENUMERATIONS = {
    "NamespaceType": NamespaceType,
    "ReferenceKind": description.ReferenceKind,
    "WatchEvent": description.WatchEvent,
    "SocketFamily": SocketFamily,
    "SocketType": SocketType,
    "DeviceAccess": DeviceAccess,
    "FileKind": FileKind,
    "InterfaceKind": InterfaceKind,
}
METHODS: dict[str, tuple[Struct, Struct]] = {
    "Open": (messages.OpenRequest, messages.OpenReply),
    "OpenSocket": (messages.OpenSocketRequest, messages.OpenSocketReply),
    "ListDevices": (messages.ListDevicesRequest, messages.ListDevicesReply),
    "OpenDevice": (messages.OpenDeviceRequest, messages.OpenDeviceReply),
    "AddInterface": (interface_messages.AddInterfaceRequest, interface_messages.AddInterfaceReply),
    "OpenFile": (file_messages.OpenFileRequest, file_messages.OpenFileReply),
    "WhoAmI": (service.Nothing, messages.WhoAmIReply),
    "Explain": (messages.ExplainRequest, messages.ExplainReply),
    "List": (messages.ListRequest, messages.ListReply),
    "Watch": (messages.WatchRequest, messages.WatchReply),
    "ListContainers": (service.Nothing, messages.ListContainersReply),
    "Create": (messages.CreateRequest, messages.CreateReply),
    "Hold": (messages.HoldRequest, messages.HoldReply),
    "Release": (messages.ReleaseRequest, service.Nothing),
    "ListHeld": (service.Nothing, messages.ListHeldReply),
    "Restrict": (messages.RestrictRequest, service.Nothing),
    "GetStatus": (service.Nothing, messages.Status),
}
STANDARD_METHODS: dict[str, tuple[Struct, Struct]] = {
    "GetInfo": (service.Nothing, service.Info),
    "GetInterfaceDescription": (service.DescriptionRequest, service.Description),
}


def written(kind: object) -> object:
    """Return a type from the .varlink file as a plain value."""
    import varlink.scanner as scanner

    if isinstance(kind, scanner._Maybe):
        return ("?", written(kind.element_type))
    if isinstance(kind, scanner._Array):
        return ("[]", written(kind.element_type))
    if isinstance(kind, scanner._Dict):
        return ("[string]", written(kind.element_type))
    if isinstance(kind, scanner._CustomType):
        return kind.name
    return _PLAIN[type(kind)]


def declared(kind: object) -> object:
    """Return the type of a field of a Struct as the same plain value."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return ("?", declared(next(argument for argument in arguments if argument is not type(None))))
    if origin is list:
        return ("[]", declared(arguments[0]))
    if origin is dict:
        return ("[string]", declared(arguments[1]))
    if origin is typing.Annotated:
        return declared(arguments[0])
    names = {struct: name for name, struct in STRUCTS.items()} | {kind: name for name, kind in ENUMERATIONS.items()}
    return names.get(typing.cast(type, kind)) or _PLAIN[typing.cast(type, kind)]


def fields_of(struct: type[msgspec.Struct]) -> dict[str, object]:
    return {field.encode_name: declared(field.type) for field in msgspec.structs.fields(struct)}


def fields_in(kind: typing.Any) -> dict[str, object]:
    return {name: written(field) for name, field in kind.fields.items()}


@pytest.mark.parametrize("name", STRUCTS)
def test_a_type_in_the_varlink_file_has_the_fields_of_its_struct(name: str) -> None:
    assert fields_in(OURS.members[name].type) == fields_of(STRUCTS[name])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_in_the_varlink_file_has_the_fields_of_its_structs(name: str) -> None:
    method, (request, reply) = OURS.members[name], METHODS[name]
    assert fields_in(method.in_type) == fields_of(request)
    assert fields_in(method.out_type) == fields_of(reply)


@pytest.mark.parametrize("name", STANDARD_METHODS)
def test_a_standard_method_has_the_fields_of_its_structs(name: str) -> None:
    method, (request, reply) = STANDARD.members[name], STANDARD_METHODS[name]
    assert fields_in(method.in_type) == fields_of(request)
    assert fields_in(method.out_type) == fields_of(reply)


def test_every_member_of_the_varlink_file_is_checked_here() -> None:
    members = set(OURS.members)
    errors = {name.rpartition(".")[2] for name in WIRE_ERRORS if name.startswith(messages.NAME)}
    assert members == set(STRUCTS) | set(METHODS) | errors | set(ENUMERATIONS)
    standard = {name.rpartition(".")[2] for name in WIRE_ERRORS if name.startswith(service.NAME)}
    assert set(STANDARD.members) == set(STANDARD_METHODS) | standard


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_an_enumeration_has_all_its_values(name: str) -> None:
    assert list(OURS.members[name].type.fields) == list(ENUMERATIONS[name])


@pytest.mark.parametrize("error", WIRE_ERRORS.values(), ids=lambda error: error.__name__)
def test_an_error_class_has_the_fields_of_the_varlink_file(error: type[BrokerError]) -> None:
    text, _, name = error.wire_name.rpartition(".")
    member = (OURS if text == messages.NAME else STANDARD).members[name]
    assert list(member.type.fields) == list(error.fields)
    assert error.__name__ == name


@pytest.mark.parametrize(
    "text",
    ["pid:4711", "tid:4711/4715", "name:blue", "container:web", "docker:web", "unit:a.service", "net:[17]", "path:/run/x", "self"],
)
def test_a_target_is_the_same_after_encoding_and_decoding(text: str) -> None:
    data = msgspec.json.encode(TargetSpec.of(Target.parse(text)))
    assert str(msgspec.json.decode(data, type=TargetSpec).to_target()) == text


@pytest.mark.parametrize(
    "target",
    [
        {}, {"pid": 1, "name": "blue"}, {"tid": 1}, {"engine": "docker"}, {"name": "blue", "tid": 1}, {"self": False},
        {"name": "../blue"}, {"container": "web", "engine": "dockerr"}, {"namespace": "net"}, {"path": "/run/../x"}, {"name": ""},
    ],
    ids=str,
)  # fmt: skip
def test_no_target_two_targets_and_malformed_ones_are_refused(target: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter, match="target"):
        msgspec.convert(target, TargetSpec).to_target()
