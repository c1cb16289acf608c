"""Attacks on the broker, each of them really run.

The table at the end lists all attacks, with the CVE of a similar one where there is one, and the tests of the defence.
"""

import ast
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import NsbrokerError, PermissionDenied, RecordFailed
from nsbroker.linux import ancillary, descriptors
from nsbroker.linux.features import features
from tests.snapshot import Snapshot
from tests.world import ALICE, BOB, PATIENCE, Daemon, Sleeper, as_user, eventually, run_command

ASK = b'{"method":"io.nsbroker.Broker.WhoAmI"}\0'


def read_reply(sock: socket.socket) -> dict[str, object]:
    data, fds = ancillary.receive_piece(sock, bytearray(70000), b"\0")
    descriptors.close_all(fds)
    reply: dict[str, object] = msgspec.json.decode(data.rstrip(b"\0"))
    return reply


@pytest.mark.root
def test_a_peer_that_is_gone_lends_its_unit_to_nobody(daemon: Daemon) -> None:
    """The pid of the peer may be in use again by now, so nothing may be decided by it."""
    daemon.allow("unit", who=["unit:init.scope", "unit:web.service"], targets=["name:*"], namespaces=["net"])
    sock = socket.socket(socket.AF_UNIX)
    child = os.fork()
    if child == 0:
        os.setresgid(ALICE, ALICE, ALICE)
        os.setresuid(ALICE, ALICE, ALICE)
        sock.connect(str(daemon.socket))
        os._exit(0)
    os.waitpid(child, 0)
    # The connection was made in the child, on a socket that both processes have open.
    with sock:
        sock.send(ASK)
        peer = read_reply(sock)["parameters"]
        assert isinstance(peer, dict)
        assert (peer["peer"]["uid"], peer["peer"]["pid"]) == (ALICE, 0)
        assert peer["peer"].get("unit") is None
        sock.send(b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"self":true},"types":["net"]}}\0')
        assert read_reply(sock)["error"] == "io.nsbroker.Broker.NoSuchTarget"


@pytest.mark.root
def test_a_connection_that_is_passed_on_has_only_the_rights_of_its_maker(daemon: Daemon) -> None:
    with Sleeper(uid=BOB) as theirs, daemon.raw() as sock:
        request = {"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"pid": theirs.pid}, "types": ["net"]}}

        def use() -> tuple[Any, bool]:
            sock.send(ASK)
            who = read_reply(sock)
            sock.send(msgspec.json.encode(request) + b"\0")
            return who["parameters"], "error" in read_reply(sock)

        # Root made the connection, so it has root's rights, as docs/reference/configuration.md says about connections.
        who, refused = as_user(BOB, use)
        assert (who["peer"]["uid"], refused) == (0, False)


@pytest.mark.root
def test_root_of_a_user_namespace_is_not_root(daemon: Daemon, sleeper: Sleeper) -> None:
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-m", "nsbroker", "show", f"pid:{sleeper.pid}"]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "permission denied" in done.stderr


@pytest.mark.root
def test_numbers_of_a_foreign_pid_namespace_mean_its_own_processes(daemon: Daemon) -> None:
    """For the caller, pid:1 is the first process of its own PID namespace, never the host's."""
    code = """
import nsbroker
with nsbroker.connect() as broker, broker.open("pid:1", "pid") as theirs, nsbroker.Namespace.current("pid") as own:
    print(theirs == own)
"""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**os.environ, "NSBROKER_ADDRESS": daemon.address}, capture_output=True, text=True, check=False
    )
    if features().pid_translation:
        assert done.stdout == "True\n", done.stderr
    else:
        assert "another PID namespace, whose numbers this kernel cannot translate: send a pidfd" in done.stderr


@pytest.mark.root
def test_the_name_of_the_clients_socket_does_not_identify_the_client(daemon: Daemon) -> None:
    def ask() -> object:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.bind(f"\0;uid=0;pid=1;{os.getpid()}")
            sock.connect(str(daemon.socket))
            sock.send(ASK)
            return read_reply(sock)["parameters"]

    peer = as_user(ALICE, ask)
    assert isinstance(peer, dict)
    assert peer["peer"]["uid"] == ALICE


@pytest.mark.root
def test_two_users_cannot_open_each_others_namespaces(daemon: Daemon) -> None:
    with Sleeper(uid=ALICE) as alices, Sleeper(uid=BOB) as bobs:

        def opens(pid: int) -> Callable[[], bool]:
            def ask() -> bool:
                with connect(daemon.address) as broker:
                    try:
                        broker.open(f"pid:{pid}", "net").close()
                    except PermissionDenied:
                        return False
                    return True

            return ask

        assert [as_user(uid, opens(pid)) for uid in (ALICE, BOB) for pid in (alices.pid, bobs.pid)] == [True, False, False, True]


@pytest.mark.root
def test_a_process_that_becomes_setuid_is_never_opened_for_its_former_user(daemon: Daemon) -> None:
    """A process of the caller changes its effective uid between the caller's and root's while the caller asks for it."""
    code = """
import os, signal, sys, time
os.setresgid(4001, 4001, 4001)
os.setresuid(4001, 4001, 0)
print("ready", flush=True)
while True:
    os.setresuid(-1, 0, -1)
    os.setresuid(-1, 4001, -1)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as changing:
        assert changing.stdout
        assert changing.stdout.readline() == b"ready\n"

        def ask() -> list[str]:
            answers = []
            with connect(daemon.address) as broker:
                for _ in range(500):
                    try:
                        broker.open(f"pid:{changing.pid}", "net").close()
                        answers.append("opened")
                    except NsbrokerError as error:
                        answers.append(type(error).__name__)
            return answers

        # Its saved uid is root's all the time, so it is never the caller's own.
        assert set(as_user(ALICE, ask)) == {"PermissionDenied"}
        changing.kill()


def test_names_with_newlines_forge_no_record(daemon: Daemon) -> None:
    forged = 'x\n{"method":"Open","verdict":"allowed"}\n'
    request = {"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"container": forged}, "types": ["net"]}}
    other = {"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"unit": "a\x1b[31m.service"}, "types": ["net"]}}
    for bad in (request, other):
        with daemon.raw() as sock:
            sock.send(msgspec.json.encode(bad) + b"\0")
            assert read_reply(sock)["error"] == "org.varlink.service.InvalidParameter"
    assert daemon.records() == []


def test_nothing_is_handed_over_while_records_cannot_be_written(tmp_path: Path) -> None:
    """Standard error is a pipe that nobody reads.  The broker must neither block nor hand anything over."""
    daemon = Daemon(tmp_path, limits="record-deadline = 0.05")
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with open(read, "rb", buffering=0) as pipe, subprocess.Popen(daemon.command, stderr=write) as process:
        os.close(write)
        eventually(lambda: b"listening" in (pipe.read(4096) or b""), "the daemon listens")
        opened = refused = 0
        with connect(daemon.address) as broker:
            for _ in range(60):
                try:
                    broker.open("self", "net").close()
                    opened += 1
                except RecordFailed:
                    refused += 1
            broker.who_am_i()
        assert opened > 0
        assert refused > 0
        taken = b""
        os.set_blocking(read, False)
        while piece := pipe.read(65536):
            taken += piece
        assert taken.count(b'"verdict":"allowed"') == opened
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.root
def test_nobody_may_trace_the_daemon_not_even_its_own_user() -> None:
    """The daemon runs as an ordinary user here: it must not depend on root's rights for its protection."""
    folder = Path(f"/run/traced-{os.getpid()}")
    folder.mkdir()
    os.chown(folder, ALICE, ALICE)
    drop = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups"]
    command = [*drop, sys.executable, "-m", "nsbroker", "serve", "--address", f"unix:{folder}/socket"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert any(b"listening" in line for line in process.stderr)
        seen = subprocess.run([*drop, "cat", f"/proc/{process.pid}/environ"], capture_output=True, text=True, check=False)
        assert "Permission denied" in seen.stderr
        process.terminate()
    folder.rmdir()


def test_what_is_handed_over_is_the_one_descriptor_and_nothing_else(daemon: Daemon, sleeper: Sleeper) -> None:
    with daemon.connect() as broker:
        connected = Snapshot.of(os.getpid()).fds
        with broker.open(f"pid:{sleeper.pid}", "net") as ns:
            new = set(Snapshot.of(os.getpid()).fds) - set(connected)
            assert new == {(ns.fileno(), f"net:[{sleeper.inode('net')}]")}
    listing = run_command("open", f"pid:{sleeper.pid}", "--", "sh", "-c", "ls /proc/$$/fd", address=daemon.address)
    assert listing.stdout.split() == ["0", "1", "2", "3"]


def test_a_thousand_connections_come_and_go_and_others_are_served(daemon: Daemon) -> None:
    before = daemon.snapshot()
    with daemon.connect() as steady:
        for _ in range(10):
            socks = [daemon.raw() for _ in range(100)]
            for sock in socks:
                sock.send(ASK[:20])
            steady.who_am_i()
            for sock in socks:
                sock.close()
    daemon.settles_at(before)


def test_a_stopped_client_stalls_nobody(daemon: Daemon) -> None:
    with daemon.connect() as steady, daemon.raw() as stopped:
        stopped.send(ASK * 2000)
        for _ in range(50):
            steady.who_am_i()


TESTS = Path(__file__).parent.parent

SERVER = "daemon/test_server.py"
CONNECTIONS = "daemon/limits/test_connections.py"
BROKER = "daemon/test_dispatcher.py"
PEER = "daemon/test_peer.py"
HERE = "attacks/test_attacks.py"
NEIGHBOURS = "attacks/test_neighbours.py"
FILES = "daemon/configuration/test_files.py"

TABLE: dict[str, list[tuple[str, str]]] = {
    "1 the peer's number is used again (CVE-2019-6133)": [
        (HERE, "test_a_peer_that_is_gone_lends_its_unit_to_nobody"),
        (PEER, "test_the_unit_is_read_from_the_pinned_process_and_is_none_after_it_ends"),
    ],
    "2 the target changes between look and open": [
        (HERE, "test_a_process_that_becomes_setuid_is_never_opened_for_its_former_user"),
        ("attacks/test_faults.py", "test_a_target_that_changes_between_look_and_open_is_refused"),
        ("model/test_identity.py", "test_a_number_that_is_used_again_is_not_the_same_process"),
        ("daemon/discovery/test_views.py", "test_a_stranger_with_the_number_of_a_container_is_not_seen"),
        ("daemon/discovery/test_views.py", "test_a_stranger_with_the_number_of_a_unit_is_not_seen"),
    ],
    "3 a number of another PID namespace": [
        (HERE, "test_numbers_of_a_foreign_pid_namespace_mean_its_own_processes"),
        (PEER, "test_numbers_of_another_pid_namespace_are_translated_or_refused"),
    ],
    "4 root of a container (CVE-2020-15257)": [
        (HERE, "test_root_of_a_user_namespace_is_not_root"),
        (PEER, "test_uid_0_of_another_user_namespace_is_not_root"),
    ],
    "5 identity from text (CVE-2019-7304)": [(HERE, "test_the_name_of_the_clients_socket_does_not_identify_the_client")],
    "6 an error counts as yes (CVE-2021-3560)": [
        ("attacks/test_faults.py", "test_an_error_at_any_step_refuses_the_call_and_leaks_nothing")
    ],
    "7 a foreign namespace (CVE-2017-5985)": [(HERE, "test_two_users_cannot_open_each_others_namespaces")],
    "8 a name from somebody else's engine (CVE-2026-39402)": [
        ("engines/test_podman.py", "test_a_users_own_container_is_opened_and_entered_by_that_user_alone"),
        ("engines/test_podman.py", "test_a_users_engine_cannot_claim_a_process_of_somebody_else"),
        ("daemon/engines/test_http.py", "test_a_socket_that_a_user_owns_is_not_trusted_as_roots"),
        ("daemon/engines/test_container.py", "test_names_of_a_users_engine_are_no_names_for_rules"),
        ("attacks/test_engines.py", "test_a_user_who_listens_in_the_place_of_a_stopped_container_is_not_queried"),
        ("attacks/test_engines.py", "test_no_pattern_for_names_fits_an_id_or_a_label_of_an_image"),
    ],
    "9 paths, and learning what exists (CVE-2018-6556)": [
        ("daemon/targets/test_resolve.py", "test_missing_things_each_have_their_error"),
        ("daemon/methods/test_authorization.py", "test_refusals_are_identical_whether_or_not_the_target_exists"),
    ],
    "10 a link is exchanged on the way (CVE-2021-30465)": [
        ("attacks/test_devices.py", "test_a_link_that_is_flipped_a_hundred_thousand_times_leads_nowhere"),
        ("attacks/test_devices.py", "test_a_device_that_is_exchanged_for_another_is_never_the_other"),
    ],
    "11 a hostile device node": [
        ("daemon/methods/test_devices.py", "test_a_file_that_is_not_the_device_of_that_name_is_never_opened"),
        ("daemon/methods/test_devices.py", "test_a_terminal_never_becomes_the_daemons_controlling_terminal"),
        ("daemon/methods/test_devices.py", "test_a_file_system_that_never_answers_delays_only_its_own_user"),
        ("linux/test_device.py", "test_a_walk_has_one_folder_open_at_a_time_however_many_there_are"),
    ],
    "12 a descriptor too many goes out (CVE-2024-21626)": [
        (HERE, "test_what_is_handed_over_is_the_one_descriptor_and_nothing_else"),
        ("daemon/methods/test_devices.py", "test_a_device_is_open_for_what_was_asked_for"),
        ("daemon/methods/test_device_flags.py", "test_over_the_wire_another_flag_is_a_bad_parameter_with_its_name"),
    ],
    "13 the daemon is traced (CVE-2016-9962)": [(HERE, "test_nobody_may_trace_the_daemon_not_even_its_own_user")],
    "14 a thread stays in a foreign namespace": [
        ("inside/test_visit.py", "test_when_the_thread_cannot_go_back_it_ends_and_says_so"),
        ("attacks/test_faults.py", "test_a_thread_that_cannot_come_back_ends_and_the_next_calls_are_right"),
        ("attacks/test_faults.py", "test_a_socket_that_was_created_elsewhere_is_not_handed_over"),
        ("daemon/methods/test_open_socket.py", "test_ten_thousand_sockets_are_each_where_they_should_be"),
    ],
    "15 a bad index (CVE-2025-8067)": [
        (BROKER, "test_a_bad_index_is_refused_and_its_descriptors_closed"),
        ("varlink/test_connection.py", "test_only_an_int_in_the_range_is_accepted_as_the_index_of_a_descriptor"),
    ],
    "16 descriptors leak on truncation (CVE-2020-12049)": [
        ("linux/test_ancillary.py", "test_at_the_limit_of_open_files_nothing_leaks"),
        (BROKER, "test_a_descriptor_too_many_is_refused_by_every_method"),
    ],
    "17 replies that are never read": [
        (SERVER, "test_a_client_that_never_reads_is_disconnected_and_its_descriptors_are_limited"),
        (CONNECTIONS, "test_unread_descriptors_are_counted_over_all_connections_of_a_user"),
    ],
    "18 floods, trickles, huge and deep messages (CVE-2010-4352)": [
        (CONNECTIONS, "test_connections_are_limited_per_user_and_in_all_with_a_reserve_for_root"),
        (SERVER, "test_half_a_message_ends_the_connection_after_the_deadline"),
        (SERVER, "test_only_the_peer_that_breaks_the_protocol_is_disconnected"),
        (HERE, "test_a_thousand_connections_come_and_go_and_others_are_served"),
        ("varlink/test_message.py", "test_no_bytes_raise_anything_but_protocol_error"),
        ("cli/exporter/test_metrics_server.py", "test_a_client_that_is_never_quiet_for_long_is_hung_up_on"),
        ("cli/commands/test_exporter.py", "test_at_the_limit_of_open_files_only_the_networks_that_are_new_are_left_out"),
        ("cli/forwarding/test_relay.py", "test_large_pieces_arrive_whole_without_a_free_descriptor_for_a_pipe"),
    ],
    "19 a container registered to point at a victim (CVE-2026-4105)": [
        ("systemd/test_units_and_machines.py", "test_a_machine_that_was_registered_to_point_at_a_victim_is_not_opened"),
        ("daemon/engines/test_container.py", "test_which_control_groups_belong_to_a_container"),
        ("engines/test_crun.py", "test_a_process_number_that_was_given_out_again_is_not_trusted"),
    ],
    "20 a connection is passed on": [(HERE, "test_a_connection_that_is_passed_on_has_only_the_rights_of_its_maker")],
    "21 raw, packet and netlink sockets": [
        ("daemon/methods/test_open_socket.py", "test_each_kind_needs_its_own_permission"),
        ("daemon/methods/test_open_socket.py", "test_a_netlink_socket_can_read_links_but_not_change_them"),
    ],
    "22 forged and flooded records": [
        (HERE, "test_names_with_newlines_forge_no_record"),
        (HERE, "test_nothing_is_handed_over_while_records_cannot_be_written"),
        ("daemon/methods/test_held_steps.py", "test_what_is_released_stays_held_when_that_cannot_be_recorded"),
        ("daemon/test_record_sink.py", "test_calls_fail_while_the_journal_takes_no_records_and_that_is_logged_once"),
        ("daemon/test_audit.py", "test_refusals_above_the_limit_of_a_user_are_only_counted"),
        ("daemon/test_audit.py", "test_what_the_broker_records_about_itself_is_kept_however_many_refusals_wait"),
        (SERVER, "test_malformed_messages_above_the_limit_of_a_user_are_only_counted"),
    ],
    "23 a policy that others can write": [
        (FILES, "test_a_file_that_others_may_write_is_refused"),
        (FILES, "test_a_file_of_somebody_else_is_refused"),
        (FILES, "test_a_folder_of_rules_that_others_may_write_is_refused_whatever_is_in_it"),
        (FILES, "test_a_link_of_another_user_to_a_file_of_root_becomes_no_policy"),
        ("daemon/configuration/test_trusted_path.py", "test_each_folder_on_the_way_is_checked"),
    ],
    "24 connecting and closing in a loop": [
        (NEIGHBOURS, "test_connecting_and_closing_in_a_loop_keeps_nobody_waiting"),
        ("daemon/test_server.py", "test_clients_that_keep_connecting_do_not_hold_up_the_end_of_the_broker"),
    ],
    "25 sockets in root's name": [(NEIGHBOURS, "test_a_socket_made_inside_is_the_users_and_shares_no_port_of_roots")],
    "26 netlink sockets with root's credentials (CVE-2014-0181)": [
        (NEIGHBOURS, "test_what_a_setuid_program_writes_to_a_netlink_socket_changes_nothing"),
    ],
    "27 uid 0 of a container without a user namespace": [
        (NEIGHBOURS, "test_uid_0_without_capabilities_is_not_root_and_makes_nothing_in_roots_name"),
        (PEER, "test_uid_0_without_the_right_to_administer_the_host_is_anonymous"),
        ("daemon/methods/test_held_steps.py", "test_nothing_is_held_for_a_peer_whose_uid_proves_nothing"),
    ],
    "28 records drowned in a user's own calls": [
        ("attacks/test_records.py", "test_only_a_user_with_more_calls_than_the_limit_is_slowed_down"),
    ],
    "29 a journal that others keep busy": [
        ("attacks/test_records.py", "test_a_flooded_journal_takes_every_record_and_nobody_is_refused"),
    ],
    "30 hanging up in the middle of a list": [
        (NEIGHBOURS, "test_hanging_up_in_the_middle_of_a_list_locks_nobody_out"),
        ("daemon/limits/test_abandonable_threads.py", "test_a_call_that_is_cancelled_while_waiting_frees_its_place"),
    ],
    "31 descriptors that are slow to close": [
        (NEIGHBOURS, "test_descriptors_that_are_slow_to_close_wait_for_their_own_user_alone"),
        ("attacks/test_hostile_peers.py", "test_a_descriptor_that_comes_with_an_out_of_band_byte_is_closed_on_a_thread"),
        ("daemon/limits/test_namespace_closing.py", "test_the_last_handle_of_a_namespace_with_ten_thousand_files"),
        ("daemon/limits/test_namespace_closing.py", "test_an_open_that_fails_after_opening"),
        ("linux/test_closing.py", "test_a_user_whose_descriptors_all_wait_without_a_thread_gets_one_as_soon_as_there_can_be_one"),
        (
            "daemon/limits/test_shared_poll.py",
            "test_each_time_the_state_is_over_one_task_goes_on_and_no_more_than_one_other_looks",
        ),
    ],
    "32 subordinate uids, and a full table": [
        (NEIGHBOURS, "test_subordinate_uids_count_for_their_user_and_a_full_table_makes_room"),
        ("daemon/limits/test_users.py", "test_a_subordinate_uid_is_counted_to_its_user"),
        ("daemon/discovery/test_stall_guard.py", "test_processes_with_subordinate_uids_are_skipped_with_those_of_their_user"),
        ("daemon/discovery/test_command_lines.py", "test_subordinate_uids_block_one_thread_for_their_user"),
        (
            "daemon/methods/test_held_steps.py",
            "test_subordinate_uids_share_what_their_user_may_hold_and_each_owns_what_it_holds",
        ),
        ("daemon/targets/test_held_store.py", "test_what_was_held_before_a_restart_counts_for_the_user_of_its_uid"),
    ],
    "33 holding under another's name": [
        (NEIGHBOURS, "test_a_pattern_leads_nobody_to_what_another_user_holds"),
        ("daemon/methods/test_held_steps.py", "test_of_what_another_user_holds_only_rules_with_exactly_this_name_give_something"),
        ("daemon/methods/test_held.py", "test_a_name_of_ip_netns_comes_before_a_held_one"),
        ("daemon/methods/test_held_steps.py", "test_a_release_that_waited_for_its_record_leaves_what_has_the_name_by_then"),
        ("daemon/targets/test_held_store.py", "test_a_hold_that_fails_leaves_what_is_held_under_its_name_by_then"),
    ],
    "34 ids that fit patterns for names": [
        ("engines/test_podman.py", "test_the_random_id_that_podman_gives_its_runtime_fits_no_pattern_for_names"),
        ("attacks/test_engines.py", "test_no_pattern_for_names_fits_an_id_or_a_label_of_an_image"),
        ("daemon/engines/test_crun.py", "test_what_is_below_the_folder_of_a_container_is_no_container"),
    ],
    "35 hundreds of busy connections": [
        (NEIGHBOURS, "test_a_user_with_250_busy_connections_is_served_in_turn_with_others"),
        ("daemon/limits/test_fair_queue.py", "test_a_user_who_asks_little_goes_before_many_who_ask_much"),
        ("daemon/methods/test_held_steps.py", "test_while_everything_that_is_held_is_looked_at_others_have_their_turn"),
    ],
    "36 a flood of questions to systemd": [("systemd/test_bus.py", "test_250_calls_of_one_user_in_flight_delay_no_other_user")],
    "37 new namespaces without end": [
        (NEIGHBOURS, "test_new_namespaces_need_a_rule_and_are_counted_to_the_caller"),
        ("daemon/methods/test_held_steps.py", "test_calls_that_create_together_keep_to_the_limit_of_their_user"),
    ],
    "38 the host's network taken for a container's": [
        ("daemon/methods/test_open_socket.py", "test_a_target_in_the_hosts_network_is_refused_with_the_reason"),
        ("daemon/methods/test_host_networks.py", "test_a_network_that_could_be_the_hosts_counts_as_the_hosts"),
        ("daemon/methods/test_open_socket.py", "test_who_holds_the_hosts_network_under_a_name_gets_no_socket_in_it"),
    ],
    "39 patterns that take long": [(NEIGHBOURS, "test_the_time_for_a_pattern_grows_only_with_the_length_of_the_name")],
    "40 helpers for users' own engines": [
        ("attacks/test_own_engines.py", "test_many_different_queries_use_a_small_part_of_a_processor"),
    ],
    "41 what the kernel refuses the same user": [(NEIGHBOURS, "test_what_the_kernel_refuses_a_user_is_not_that_users_own")],
    "42 what the time of a refusal reveals": [(NEIGHBOURS, "test_the_time_of_a_refusal_reveals_no_more_than_its_text")],
    "43 what others do, and the host's numbers": [
        (NEIGHBOURS, "test_a_user_learns_nothing_about_what_the_broker_does_for_others"),
        (NEIGHBOURS, "test_nobody_in_a_pid_namespace_learns_pids_of_the_host"),
        ("daemon/test_misconfigured.py", "test_others_than_root_are_not_told_what_is_wrong"),
    ],
    "44 a stream that its reader leaves": [
        (NEIGHBOURS, "test_a_stream_that_its_reader_leaves_ends_with_the_connection_and_the_calls_behind_it"),
    ],
    "45 a broker that does not reply, or means harm": [
        ("client/test_deadlines.py", "test_a_call_to_a_stopped_broker_ends"),
        ("client/test_hostile.py", "test_a_hostile_broker_causes_an_error_of_ours_and_leaks_nothing"),
    ],
    "46 a restricted connection that wants more": [
        ("attacks/test_restricted.py", "test_a_restricted_connection_gets_nothing_more_whatever_it_tries"),
        ("attacks/test_restricted.py", "test_restrictions_without_end_keep_nobody_waiting_and_take_no_memory"),
        ("daemon/methods/test_restrict.py", "test_a_refusal_is_the_same_for_what_exists_and_what_does_not"),
        ("client/test_restricted.py", "test_a_connection_that_cannot_be_restricted_again_is_not_used"),
    ],
    "47 control groups with long paths": [
        ("linux/test_process_table.py", "test_a_line_of_a_control_group_that_is_cut_off_is_left_out"),
    ],
    "48 answers on netlink sockets that are not the kernel's": [
        ("linux/test_rtnetlink.py", "test_another_process_in_the_network_cannot_send_an_answer"),
        ("cli/commands/test_exporter.py", "test_root_of_a_network_cannot_answer_in_the_place_of_the_kernel"),
    ],
    "49 a name server of a target that sends junk without end": [
        ("client/test_lookup.py", "test_a_server_that_sends_junk_without_end_is_asked_no_more"),
        ("client/test_lookup.py", "test_junk_without_end_ends_the_lookup_in_time"),
        ("client/test_lookup.py", "test_an_answer_over_tcp_that_takes_long_to_decode_is_refused"),
        ("client/test_lookup.py", "test_junk_without_end_leaves_other_tasks_their_turn_and_the_lookup_can_be_cancelled"),
    ],
    "50 control groups with names like ids of containers": [
        ("daemon/engines/test_registry.py", "test_who_looks_for_a_callers_container_asks_only_about_those_that_it_can_be_in"),
        ("daemon/engines/test_podman.py", "test_several_ids_cost_one_reading_of_the_storage"),
    ],
    "51 code in a container that is entered (CVE-2019-14271)": [
        ("cli/commands/test_exec.py", "test_exec_loads_nothing_from_the_mount_namespace_that_it_has_entered"),
    ],
    "52 processes with ever other supplementary groups": [
        ("attacks/test_many_groups.py", "test_processes_with_ever_other_groups_take_no_memory_and_keep_nobody_waiting"),
        ("daemon/policy/test_rules.py", "test_peers_that_differ_only_in_groups_that_no_rule_names_share_their_grants"),
    ],
}


@pytest.mark.parametrize("attack", TABLE)
def test_every_attack_has_tests_that_exist(attack: str) -> None:
    for file, name in TABLE[attack]:
        tree = ast.parse((TESTS / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}, (
            f"{file} has no {name}"
        )
