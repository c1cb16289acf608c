"""A table of what the Go libraries for namespaces can do, and of the tests that show that nsbroker can do it, too.

The libraries are vishvananda/netns, the `ns` packages of the CNI plugins and of merbridge, the references of lxkns, and
net-conduit.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

NAMESPACE = "namespace/test_handle.py"
CREATION = "namespace/test_creation.py"
SEARCH = "namespace/test_search.py"
CALL = "inside/test_visit.py"
CONDUIT = "conduit/test_core.py"
CLIENTS = "client/test_every_client.py"
ENGINES = "engines/test_every_engine.py"
REGISTRY = "daemon/engines/test_registry.py"
IDENTITY = "model/test_identity.py"

ROWS: dict[str, list[tuple[str, str]]] = {
    # vishvananda/netns
    "Get": [(NAMESPACE, "test_current_is_the_calling_threads")],
    "GetFromPid, GetFromThread": [
        (NAMESPACE, "test_from_pid_opens_what_proc_shows"),
        (NAMESPACE, "test_from_pid_says_which_number_is_wrong"),
        (NAMESPACE, "test_from_thread_refuses_a_thread_of_another_process"),
    ],
    "GetFromPath": [(NAMESPACE, "test_from_path_says_what_it_found_instead")],
    "GetFromName": [
        (NAMESPACE, "test_from_name_is_what_ip_netns_made"),
        (NAMESPACE, "test_from_name_takes_one_harmless_component"),
    ],
    "GetFromDocker": [
        (ENGINES, "test_a_container_opens_by_name_by_id_and_by_the_beginning_of_its_id"),
        (ENGINES, "test_a_target_that_fits_two_containers_is_refused_and_both_are_listed"),
        (REGISTRY, "test_an_exact_name_beats_an_exact_id_and_an_exact_id_beats_the_beginning_of_one"),
        ("model/test_target.py", "test_a_bad_target_is_refused_with_the_right_spelling"),
    ],
    "New": [(CREATION, "test_a_new_namespace_is_new_and_leaves_the_caller_where_it_is")],
    "NewNamed, DeleteNamed": [
        (CREATION, "test_ip_netns_sees_what_was_named_here_and_deletes_it"),
        (CREATION, "test_what_ip_netns_named_is_seen_here_and_deleted"),
        (CREATION, "test_ip_netns_and_this_library_interleaved"),
        (CREATION, "test_when_the_mount_fails_nothing_is_left_behind"),
    ],
    "Set, Setns": [(CALL, "test_set_moves_the_calling_thread_and_it_alone")],
    "None, IsOpen, Close": [(NAMESPACE, "test_a_closed_handle_raises_but_keeps_its_id")],
    "Equal, String, UniqueId": [
        (NAMESPACE, "test_equality_is_of_namespaces_not_of_descriptors"),
        (NAMESPACE, "test_the_id_knows_what_the_kernel_knows"),
    ],
    # containernetworking plugins, merbridge
    "GetCurrentNS, GetNS, IsNSorErr": [
        (NAMESPACE, "test_from_path_says_what_it_found_instead"),
        (NAMESPACE, "test_from_path_does_not_hang_on_a_fifo"),
    ],
    "Do, WithNetNSPath": [
        (CALL, "test_the_function_runs_inside_and_its_result_comes_back"),
        (CALL, "test_what_the_function_raises_comes_back_as_it_is"),
        (CALL, "test_two_hundred_at_once_three_times"),
        (CALL, "test_nested"),
        (CALL, "test_when_the_thread_cannot_go_back_it_ends_and_says_so"),
        (CALL, "test_a_closed_handle_and_two_of_one_type_are_refused"),
    ],
    "Set, Path, Fd, Close": [
        (NAMESPACE, "test_a_closed_handle_raises_but_keeps_its_id"),
        (CALL, "test_a_closed_handle_and_two_of_one_type_are_refused"),
    ],
    "TempNetNS": [(CREATION, "test_a_namespace_ends_with_its_last_descriptor")],
    # lxkns
    "Opener.NsFd": [(NAMESPACE, "test_from_fd_owned_closes_and_borrowed_does_not")],
    "OpenTypedReference": [
        (NAMESPACE, "test_a_type_known_beforehand_costs_no_ioctl"),
        (NAMESPACE, "test_a_wrong_type_is_refused_and_closed"),
        (NAMESPACE, "test_from_fd_refuses_what_is_no_namespace_and_closes_it_when_owned"),
    ],
    "Type, ID, User, Parent, OwnerUID": [
        (NAMESPACE, "test_owner_and_parent_of_a_child_user_namespace"),
        (NAMESPACE, "test_parent_of_a_namespace_without_one_says_why"),
    ],
    "Go, Execute, Visit": [
        (CALL, "test_several_namespaces_at_once"),
        (CALL, "test_when_the_second_cannot_be_entered_the_function_does_not_run"),
        (CALL, "test_when_the_thread_cannot_go_back_it_ends_and_says_so"),
    ],
    "PortableReference": [
        (IDENTITY, "test_each_mismatch_is_named_in_the_error"),
        (SEARCH, "test_through_an_open_descriptor_alone"),
        (CLIENTS, "test_a_target_that_is_not_what_was_expected_is_refused"),
    ],
    "IDwithType": [(IDENTITY, "test_an_id_is_parsed_strictly"), (IDENTITY, "test_an_id_parses_what_it_prints")],
    # net-conduit
    "New, FromFile, FromConn, Close": [
        (CONDUIT, "test_a_transport_that_cannot_carry_descriptors_is_refused_at_once"),
        (CONDUIT, "test_a_closed_conduit_sends_nothing"),
    ],
    "TransferFD, TransferFile, TransferConn": [
        (CONDUIT, "test_a_descriptor_goes_over_and_the_original_is_closed"),
        (CONDUIT, "test_a_file_is_flushed_first_and_arrives_as_a_file"),
        (CONDUIT, "test_a_socket_arrives_and_knows_what_it_is"),
        (CONDUIT, "test_what_could_not_be_sent_is_still_the_callers"),
    ],
    "ReceiveFD, ReceiveFile, ReceiveConn": [
        (CONDUIT, "test_more_than_one_is_refused_and_all_are_closed"),
        (CONDUIT, "test_data_without_a_descriptor_is_another_error_than_the_end"),
        (CONDUIT, "test_the_end_is_an_error_of_its_own"),
        (CONDUIT, "test_a_foreign_control_message_is_refused_and_what_came_with_it_closed"),
        ("conduit/test_blocking.py", "test_at_the_limit_of_open_files_the_loss_is_reported"),
    ],
    "ErrNoFD, ErrFailedTransfer, ErrBadCtrlMesg, ...": [
        (CONDUIT, "test_another_kind_than_asked_for_is_refused_and_closed"),
        (CONDUIT, "test_a_closed_descriptor_file_or_socket_cannot_be_sent"),
    ],
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_names_tests_that_exist(row: str) -> None:
    assert ROWS[row]
    for file, name in ROWS[row]:
        tree = ast.parse((TESTS / file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in names, f"{file} has no {name}"
