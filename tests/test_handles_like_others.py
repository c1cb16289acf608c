"""A table of what the Go libraries for namespaces can do, and of the calls and tests that show that nsbroker can do it, too.

The libraries are vishvananda/netns, the `ns` packages of the CNI plugins and of merbridge, the references and relations of lxkns,
net-conduit, and gVisor's devutil.  The table cannot promise too much: each call that it names is looked up by import, and each
test that it names must use the call that it is named for, which is read from the source of the test.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.once

TESTS = Path(__file__).parent

Calls = dict[str, tuple[str, ...]]
"""For each call, as a Python expression below `nsbroker`, the tests that use it."""

NETNS: dict[str, Calls] = {
    "Get": {"Namespace.current": ("test_current_is_the_calling_threads",)},
    "GetFromPid, GetFromThread": {
        "Namespace.from_pid": ("test_from_pid_opens_what_proc_shows", "test_from_pid_says_which_number_is_wrong"),
        "Namespace.from_thread": ("test_from_thread_refuses_a_thread_of_another_process",),
    },
    "GetFromPath": {"Namespace.from_path": ("test_from_path_says_what_it_found_instead", "test_from_path_does_not_hang_on_a_fifo")},
    "GetFromName": {"Namespace.from_name": ("test_from_name_is_what_ip_netns_made", "test_from_name_takes_one_harmless_component")},
    "GetFromDocker": {
        "namespace.docker.from_docker": (
            "test_a_container_opens_by_its_name_its_id_and_a_prefix_of_its_id",
            "test_an_exact_name_beats_a_prefix",
            "test_a_prefix_of_several_ids_is_refused_with_the_candidates",
            "test_what_cannot_be_a_name_or_an_id_is_refused_before_docker_is_asked",
            "test_a_process_that_is_not_the_containers_is_refused",
        ),
        "Broker.open_all": ("test_a_container_opens_by_name_by_id_and_by_the_beginning_of_its_id",),
        "errors.AmbiguousTarget": ("test_a_target_that_fits_two_containers_is_refused_and_both_are_listed",),
    },
    "New": {"Namespace.create": ("test_a_new_namespace_is_new_and_leaves_the_caller_where_it_is",)},
    "NewNamed, DeleteNamed": {
        "Namespace.create": (
            "test_ip_netns_sees_what_was_named_here_and_deletes_it",
            "test_ip_netns_and_this_library_interleaved",
            "test_when_the_mount_fails_nothing_is_left_behind",
        ),
        "Namespace.delete_named": ("test_what_ip_netns_named_is_seen_here_and_deleted",),
        "Broker.create": ("test_a_namespace_is_created_held_opened_and_released",),
        "Broker.release": ("test_a_namespace_is_created_held_opened_and_released",),
    },
    "Set, Setns": {
        "Namespace.set": ("test_set_moves_the_calling_thread_and_it_alone",),
        "inside.setns": ("test_setns_moves_the_calling_thread_and_it_alone", "test_setns_says_what_is_wrong_with_the_descriptor"),
    },
    "None, IsOpen, Close": {
        "Namespace.close": ("test_a_closed_handle_raises_but_keeps_its_id",),
        "Namespace.closed": ("test_a_closed_handle_raises_but_keeps_its_id",),
        "Namespace.fileno": ("test_a_closed_handle_raises_but_keeps_its_id",),
    },
    "Equal, String, UniqueId": {
        "Namespace.__eq__": ("test_equality_is_of_namespaces_not_of_descriptors",),
        "Namespace.__hash__": ("test_equality_is_of_namespaces_not_of_descriptors",),
        "Namespace.__str__": ("test_from_pid_opens_what_proc_shows",),
        "Namespace.__repr__": ("test_the_text_has_the_descriptor_the_device_and_the_inode",),
        "Namespace.id": ("test_the_id_knows_what_the_kernel_knows",),
    },
}
CNI_AND_MERBRIDGE: dict[str, Calls] = {
    "GetCurrentNS, GetNS, IsNSorErr": {
        "Namespace.current": ("test_current_is_the_calling_threads",),
        "Namespace.from_path": ("test_from_path_says_what_it_found_instead",),
        "namespace.check_namespace_path": ("test_a_path_that_is_missing_is_told_from_one_that_is_no_namespace",),
        "errors.NoSuchTarget": ("test_a_path_that_is_missing_is_told_from_one_that_is_no_namespace",),
        "errors.NotANamespace": ("test_a_path_that_is_missing_is_told_from_one_that_is_no_namespace",),
    },
    "Do, WithNetNSPath": {
        "inside.call": (
            "test_the_function_runs_inside_and_its_result_comes_back",
            "test_what_the_function_raises_comes_back_as_it_is",
            "test_a_closed_handle_and_two_of_one_type_are_refused",
        ),
        "Namespace.call": (
            "test_two_hundred_at_once_three_times",
            "test_nested",
            "test_the_function_gets_the_hosts_namespace_with_its_own_arguments",
            "test_the_host_is_the_callers_also_in_a_nested_call",
        ),
        "errors.ReturnFailed": ("test_when_the_thread_cannot_go_back_it_ends_and_says_so",),
    },
    "Set, Path, Fd, Close": {
        "Namespace.set": ("test_set_moves_the_calling_thread_and_it_alone",),
        "Namespace.path": (
            "test_the_path_is_where_the_handle_came_from",
            "test_the_path_of_a_name_is_its_file",
            "test_the_path_of_any_other_handle_is_its_descriptor",
        ),
        "Namespace.fileno": ("test_a_closed_handle_raises_but_keeps_its_id",),
        "Namespace.close": ("test_a_closed_handle_raises_but_keeps_its_id",),
    },
    "TempNetNS": {"Namespace.create": ("test_a_namespace_ends_with_its_last_descriptor",)},
    "merbridge's fd-back": {
        "Broker.create": ("test_a_held_network_with_an_interface_survives_restart_kill_and_a_new_installation",),
    },
    "SoMark": {
        "Broker.socket": (
            "test_a_mark_takes_a_permission_of_its_own",
            "test_the_marked_socket_carries_no_privilege",
            "test_every_client_asks_for_marks",
        ),
    },
}
LXKNS: dict[str, Calls] = {
    "Opener.NsFd": {
        "Namespace.from_fd": ("test_from_fd_owned_closes_and_borrowed_does_not",),
        "Namespace.from_file": ("test_a_handle_keeps_its_file_alive_and_leaves_it_open",),
        "Reference.open": (
            "test_it_opens_again_and_again_without_a_broker",
            "test_every_client_opens_it",
            "test_what_takes_a_broker_says_so",
        ),
    },
    "OpenTypedReference": {
        "Namespace.from_fd": (
            "test_a_type_known_beforehand_costs_no_ioctl",
            "test_from_fd_refuses_what_is_no_namespace_and_closes_it_when_owned",
        ),
        "Namespace.from_path": (
            "test_a_known_type_of_a_path_a_name_or_a_file_costs_no_ioctl",
            "test_a_wrong_type_is_refused_and_closed",
        ),
        "Namespace.from_name": ("test_a_known_type_of_a_path_a_name_or_a_file_costs_no_ioctl",),
    },
    "Type, ID, User, Parent, OwnerUID": {
        "Namespace.type": ("test_from_pid_opens_what_proc_shows",),
        "Namespace.id": ("test_the_id_knows_what_the_kernel_knows",),
        "Namespace.owner": ("test_owner_and_parent_of_a_child_user_namespace",),
        "Namespace.owner_uid": ("test_owner_and_parent_of_a_child_user_namespace",),
        "Namespace.parent": (
            "test_owner_and_parent_of_a_child_user_namespace",
            "test_parent_of_a_namespace_without_one_says_why",
        ),
    },
    "Go, Execute, Visit": {
        "inside.call": ("test_several_namespaces_at_once", "test_when_the_second_cannot_be_entered_the_function_does_not_run"),
        "errors.EnterFailed": ("test_when_the_second_cannot_be_entered_the_function_does_not_run",),
        "errors.ReturnFailed": ("test_when_the_thread_cannot_go_back_it_ends_and_says_so",),
    },
    "PortableReference": {
        "Expectation": ("test_each_mismatch_is_named_in_the_error", "test_a_target_that_is_not_what_was_expected_is_refused"),
        "Reference": (
            "test_a_reference_is_text_that_can_be_compared_hashed_and_pickled",
            "test_what_is_expected_is_checked_each_time",
        ),
        "namespace.search.find_by_id": ("test_through_an_open_descriptor_alone",),
    },
    "IDwithType": {"NamespaceId.parse": ("test_an_id_is_parsed_strictly", "test_an_id_parses_what_it_prints")},
    "discovery": {
        "Broker.list": (
            "test_a_namespace_that_only_a_descriptor_keeps_alive",
            "test_a_network_that_only_a_socket_keeps_alive",
            "test_a_namespace_that_only_one_thread_is_in",
            "test_a_namespace_that_only_a_bind_mount_keeps_alive",
            "test_a_bind_mount_that_only_another_mount_namespace_has",
            "test_a_pid_namespace_that_waits_for_its_first_child_and_parents_without_a_process",
            "test_it_is_a_superset_of_lsns_and_agrees_with_it",
        ),
    },
    "mountineer": {
        "Broker.device": ("test_a_file_that_is_not_the_device_of_that_name_is_never_opened",),
        "namespace.search.find_by_id": ("test_through_a_mount_in_another_mount_namespace_under_a_strange_name",),
    },
    "containers": {
        "Broker.open_all": ("test_a_container_opens_by_name_by_id_and_by_the_beginning_of_its_id",),
        "Broker.containers": ("test_a_killed_container_is_neither_opened_nor_listed",),
        "errors.NoSuchTarget": ("test_a_paused_container_opens_and_other_states_are_named_in_the_error",),
    },
    "lsuns, lspidns, pidtree, nscaps, dumpns": {
        "cli.commands.tree": ("test_both_trees_are_shown_and_as_json_nested", "test_a_nested_pid_namespace_is_below_ours"),
        "cli.commands.ls": ("test_the_list_is_sorted_and_as_json_the_same",),
        "cli.commands.explain": ("test_explain_names_the_rule_and_answers_by_exit_code",),
    },
}
NET_CONDUIT: dict[str, Calls] = {
    "New, FromFile, FromConn, Close": {
        "Conduit": ("test_at_the_limit_of_open_files_the_loss_is_reported",),
        "Conduit.from_fd": (
            "test_a_number_that_is_owned_is_closed_with_the_conduit",
            "test_a_number_that_is_borrowed_stays_the_callers_also_in_its_blocking_mode",
        ),
        "Conduit.from_file": ("test_a_conduit_from_a_file_uses_a_duplicate_of_it",),
        "Conduit.close": ("test_a_closed_conduit_sends_nothing",),
        "conduit.asyncio.Conduit": ("test_closing_it_wakes_every_task_that_waits_on_it", "test_tasks_take_turns"),
        "errors.UnusableTransport": ("test_a_transport_that_cannot_carry_descriptors_is_refused_at_once",),
    },
    "TransferFD, TransferFile, TransferConn": {
        "Conduit.transfer_fd": (
            "test_a_descriptor_goes_over_and_the_original_is_closed",
            "test_what_could_not_be_sent_is_still_the_callers",
        ),
        "Conduit.transfer_file": ("test_a_file_is_flushed_first_and_arrives_as_a_file",),
        "Conduit.transfer_socket": ("test_a_socket_arrives_and_knows_what_it_is",),
    },
    "ReceiveFD, ReceiveFile, ReceiveConn": {
        "Conduit.receive_fd": (
            "test_more_than_one_is_refused_and_all_are_closed",
            "test_a_foreign_control_message_is_refused_and_what_came_with_it_closed",
            "test_at_the_limit_of_open_files_the_loss_is_reported",
        ),
        "Conduit.receive_file": ("test_a_received_file_has_the_name_that_the_kernel_knows",),
        "Conduit.receive_socket": ("test_a_socket_arrives_and_knows_what_it_is",),
    },
    "ErrNoFD, ErrFailedTransfer, ErrFailedClose, ErrBadClone, ErrBadCtrlMesg": {
        "errors.NoDescriptor": (
            "test_data_without_a_descriptor_is_another_error_than_the_end",
            "test_an_empty_message_has_no_descriptor_but_is_not_the_end",
        ),
        "errors.ConduitClosed": ("test_the_end_is_an_error_of_its_own",),
        "errors.TransferFailed": ("test_a_closed_descriptor_file_or_socket_cannot_be_sent",),
        "errors.CloseFailed": ("test_when_closing_after_sending_fails_that_is_an_error_of_its_own",),
        "errors.UnusableTransport": ("test_a_number_that_is_no_socket_is_refused_and_closed_when_owned",),
        "errors.ForeignControlMessage": ("test_a_foreign_control_message_is_refused_and_what_came_with_it_closed",),
        "errors.SeveralDescriptors": ("test_more_than_one_is_refused_and_all_are_closed",),
        "errors.DescriptorsLost": ("test_at_the_limit_of_open_files_the_loss_is_reported",),
        "errors.WrongDescriptor": ("test_another_kind_than_asked_for_is_refused_and_closed",),
    },
}
DEVUTIL: dict[str, Calls] = {
    "NewGoferClient, Close, ContainerName": {
        "Broker.at": ("test_a_bound_client_lists_and_opens_the_devices_of_its_target",),
        "Target.pidfd": ("test_a_client_bound_to_a_descriptor_means_that_very_process",),
        "client.blocking_methods.DeviceFolder.name": ("test_a_bound_client_lists_and_opens_the_devices_of_its_target",),
        "client.blocking_methods.DeviceFolder.close": ("test_once_closed_it_does_nothing_and_the_connection_and_the_files_stay",),
    },
    "DirentNames": {
        "client.blocking_methods.DeviceFolder.listdir": (
            "test_a_bound_client_lists_and_opens_the_devices_of_its_target",
            "test_it_shows_only_what_rules_allow",
        ),
        "Broker.device_names": ("test_every_name_below_dev_is_listed_for_whom_a_rule_allows_every_device",),
        "Broker.devices": ("test_only_devices_that_may_be_opened_are_listed",),
    },
    "OpenAt": {
        "client.blocking_methods.DeviceFolder.open": ("test_a_bound_client_lists_and_opens_the_devices_of_its_target",),
        "Broker.device": (
            "test_nonblock_and_noctty_are_honoured",
            "test_any_other_flag_is_refused_by_its_name",
            "test_a_terminal_never_becomes_the_daemons_controlling_terminal",
        ),
    },
    "GoferClientProvider.GetDevGoferClient": {
        "Broker.device": ("test_one_connection_serves_any_container_and_closing_it_leaves_nothing_behind",),
    },
}
LIBRARIES = {
    "netns": NETNS,
    "CNI and merbridge": CNI_AND_MERBRIDGE,
    "lxkns": LXKNS,
    "net-conduit": NET_CONDUIT,
    "devutil": DEVUTIL,
}
CALLS = sorted({call for rows in LIBRARIES.values() for calls in rows.values() for call in calls})
USES = sorted(
    {(call, test) for rows in LIBRARIES.values() for calls in rows.values() for call, tests in calls.items() for test in tests}
)

_OPERATORS: dict[str, tuple[type[ast.AST], str]] = {
    "__hash__": (ast.Name, "hash"),
    "__str__": (ast.Name, "str"),
    "__repr__": (ast.Name, "repr"),
}


class Source(NamedTuple):
    """A test, and the functions of its file by their names."""

    test: ast.AST
    functions: dict[str, ast.AST]


@functools.cache
def sources() -> dict[str, list[Source]]:
    """Find all tests below this folder, by their names."""
    found: dict[str, list[Source]] = {}
    for path in TESTS.rglob("test_*.py"):
        body = ast.parse(path.read_text()).body
        functions: dict[str, ast.AST] = {
            node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for name, node in functions.items():
            found.setdefault(name, []).append(Source(node, functions))
    return found


def resolve(expression: str) -> tuple[object, Any]:
    """Import what the expression means.  Return its owner, too.  Raises ImportError, AttributeError."""
    owner: object = None
    value: Any = importlib.import_module("nsbroker")
    for part in expression.split("."):
        owner = value
        if inspect.ismodule(value) and not hasattr(value, part):
            importlib.import_module(f"{value.__name__}.{part}")
        value = getattr(value, part)
    return owner, value


def nodes(source: Source) -> Iterator[ast.AST]:
    """Yield everything in a test, and in the functions and fixtures of its file that it uses."""
    waiting, seen = [source.test], {id(source.test)}
    while waiting:
        for node in ast.walk(waiting.pop()):
            yield node
            name = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""
            function = source.functions.get(name)
            if function is not None and id(function) not in seen:
                seen.add(id(function))
                waiting.append(function)


def uses(source: Source, expression: str) -> bool:
    """Return whether a test uses a call."""
    name = expression.rpartition(".")[2]
    if expression.startswith("cli.commands."):
        return any(isinstance(node, ast.Constant) and node.value == name for node in nodes(source))
    if name == "__eq__":
        return any(isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq) for node in nodes(source))
    if name in _OPERATORS:
        kind, word = _OPERATORS[name]
        return any(isinstance(node, kind) and getattr(node, "id", "") == word for node in nodes(source))
    owner, _ = resolve(expression)
    found = [node for node in nodes(source) if isinstance(node, ast.Attribute) and node.attr == name]
    if not inspect.isclass(owner):
        return bool(found) or any(isinstance(node, ast.Name) and node.id == name for node in nodes(source))
    if isinstance(inspect.getattr_static(owner, name), classmethod | staticmethod):
        # A constructor is called on the class, which a test for several classes calls `cls`.
        return any(getattr(node.value, "id", getattr(node.value, "attr", "")) in (owner.__name__, "cls") for node in found)
    return bool(found)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_the_table_exists(call: str) -> None:
    _, value = resolve(call)
    assert value is not None


@pytest.mark.parametrize(("call", "test"), USES, ids=lambda value: str(value))
def test_every_test_of_the_table_uses_the_call_that_it_is_named_for(call: str, test: str) -> None:
    assert len(sources().get(test, ())) == 1, f"there must be exactly one test with the name {test}"
    assert uses(sources()[test][0], call), f"{test} does not use {call}"


def test_every_row_names_a_call_and_every_call_a_test() -> None:
    for rows in LIBRARIES.values():
        for row, calls in rows.items():
            assert calls, row
            assert all(calls.values()), row


def test_a_call_that_is_missing_and_a_test_that_does_not_use_its_call_are_noticed() -> None:
    with pytest.raises(AttributeError):
        resolve("Namespace.from_nowhere")
    with pytest.raises(ImportError):
        resolve("nowhere.call")
    [source] = sources()["test_from_pid_says_which_number_is_wrong"]
    assert uses(source, "Namespace.from_pid")
    for other in ("Namespace.from_thread", "Namespace.parent", "inside.setns", "Namespace.__repr__", "cli.commands.tree"):
        assert not uses(source, other)
