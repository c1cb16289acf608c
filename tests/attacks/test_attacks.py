"""Attacks on the broker, each run for real; the table at the end names the precedent of each and the tests that show the answer."""

import ast
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import NsbrokerError, PermissionDenied, RecordFailed
from nsbroker.linux import ancillary
from nsbroker.linux.features import features
from tests.world import ALICE, BOB, Daemon, Sleeper, Snapshot, as_user, eventually, run_command

ASK = b'{"method":"io.nsbroker.Broker.WhoAmI"}\0'


def answer(sock: socket.socket) -> dict[str, object]:
    data, fds = ancillary.receive_piece(sock, bytearray(70000), b"\0")
    ancillary.close_all(fds)
    reply: dict[str, object] = msgspec.json.decode(data.rstrip(b"\0"))
    return reply


@pytest.mark.root
def test_who_connected_and_is_gone_lends_its_unit_to_nobody(daemon: Daemon) -> None:
    """The peer's number is free for others by now; nothing that hangs on it may be decided by it."""
    daemon.allow("unit", who=["unit:init.scope", "unit:web.service"], targets=["name:*"], namespaces=["net"])
    sock = socket.socket(socket.AF_UNIX)
    child = os.fork()
    if child == 0:
        os.setresgid(ALICE, ALICE, ALICE)
        os.setresuid(ALICE, ALICE, ALICE)
        sock.connect(str(daemon.socket))
        os._exit(0)
    os.waitpid(child, 0)
    # The connection was made in the child, on a socket that both hold.
    with sock:
        sock.send(ASK)
        peer = answer(sock)["parameters"]
        assert isinstance(peer, dict)
        assert (peer["peer"]["uid"], peer["peer"]["pid"]) == (ALICE, 0)
        assert peer["peer"].get("unit") is None
        sock.send(b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"self":true},"types":["net"]}}\0')
        assert answer(sock)["error"] == "io.nsbroker.Broker.NoSuchTarget"


@pytest.mark.root
def test_a_connection_that_is_passed_on_speaks_for_who_made_it_and_no_more(daemon: Daemon) -> None:
    with Sleeper(uid=BOB) as theirs, daemon.raw() as sock:
        request = {"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"pid": theirs.pid}, "types": ["net"]}}

        def use() -> tuple[Any, bool]:
            sock.send(ASK)
            who = answer(sock)
            sock.send(msgspec.json.encode(request) + b"\0")
            return who["parameters"], "error" in answer(sock)

        # Root made it, and so it has root's rights, which is what the README says of passing it on.
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
    """What pid:1 is for the caller is its own first process, never the host's."""
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
def test_a_name_for_the_clients_socket_says_nothing_of_who_it_is(daemon: Daemon) -> None:
    def ask() -> object:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.bind(f"\0;uid=0;pid=1;{os.getpid()}")
            sock.connect(str(daemon.socket))
            sock.send(ASK)
            return answer(sock)["parameters"]

    peer = as_user(ALICE, ask)
    assert isinstance(peer, dict)
    assert peer["peer"]["uid"] == ALICE


@pytest.mark.root
def test_two_users_ask_for_each_others(daemon: Daemon) -> None:
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
def test_a_process_that_becomes_setuid_is_never_opened_for_who_it_was(daemon: Daemon) -> None:
    """A process of the caller's execs something setuid root while the caller asks: either it was still theirs, or no."""
    code = """
import os, signal, sys, time
os.setresgid(4001, 4001, 4001)
os.setresuid(4001, 4001, 0)
while True:
    os.setresuid(-1, 0, -1)
    os.setresuid(-1, 4001, -1)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as changing:
        time.sleep(0.1)

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

        # Its saved uid is root's throughout, so it is never the caller's own.
        assert set(as_user(ALICE, ask)) == {"PermissionDenied"}
        changing.kill()


def test_names_with_newlines_forge_no_record(daemon: Daemon) -> None:
    forged = 'x\n{"verb":"Open","verdict":"allowed"}\n'
    request = {"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"container": forged}, "types": ["net"]}}
    other = {"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"unit": "a\x1b[31m.service"}, "types": ["net"]}}
    for bad in (request, other):
        with daemon.raw() as sock:
            sock.send(msgspec.json.encode(bad) + b"\0")
            assert answer(sock)["error"] == "org.varlink.service.InvalidParameter"
    assert daemon.records() == []


def test_a_record_that_nobody_takes_lets_nothing_out(tmp_path: Path) -> None:
    """Standard error is a pipe that nobody empties: the broker neither blocks nor hands anything over."""
    daemon = Daemon(tmp_path, limits="record-deadline = 0.05")
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with open(read, "rb", buffering=0) as pipe, subprocess.Popen(daemon.command, stderr=write) as process:
        os.close(write)
        eventually(lambda: b"listening" in (pipe.read(4096) or b""), "the daemon listens")
        opened = refused = 0
        with connect(daemon.address, timeout=10) as broker:
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
        assert process.wait(10) == 0


@pytest.mark.root
def test_nobody_may_trace_the_daemon_not_even_as_its_own_user() -> None:
    """The daemon runs as a plain user here: what makes it untouchable must not be that it is root's."""
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
        with broker.open(f"pid:{sleeper.pid}", "net") as space:
            new = set(Snapshot.of(os.getpid()).fds) - set(connected)
            assert new == {(space.fileno(), f"net:[{sleeper.inode('net')}]")}
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
BROKER = "daemon/test_broker.py"
PEER = "daemon/test_peer.py"
HERE = "attacks/test_attacks.py"
NEIGHBOURS = "attacks/test_neighbours.py"

TABLE: dict[str, list[tuple[str, str]]] = {
    "1 the peer's number is used again (CVE-2019-6133)": [
        (HERE, "test_who_connected_and_is_gone_lends_its_unit_to_nobody"),
        (PEER, "test_the_unit_is_read_from_the_pinned_process_and_gone_with_it"),
    ],
    "2 the target changes between look and open": [
        (HERE, "test_a_process_that_becomes_setuid_is_never_opened_for_who_it_was"),
        ("attacks/test_faults.py", "test_a_target_that_changes_between_look_and_open_is_refused"),
        ("test_identity.py", "test_a_number_that_is_used_again_is_not_the_same_process"),
    ],
    "3 a number of another PID namespace": [
        (HERE, "test_numbers_of_a_foreign_pid_namespace_mean_its_own_processes"),
        (PEER, "test_numbers_of_another_pid_namespace_are_translated_or_refused"),
    ],
    "4 root of a container (CVE-2020-15257)": [
        (HERE, "test_root_of_a_user_namespace_is_not_root"),
        (PEER, "test_uid_0_of_another_user_namespace_is_not_root"),
    ],
    "5 identity from text (CVE-2019-7304)": [(HERE, "test_a_name_for_the_clients_socket_says_nothing_of_who_it_is")],
    "6 an error counts as yes (CVE-2021-3560)": [("attacks/test_faults.py", "test_an_error_at_any_step_is_a_no_and_leaks_nothing")],
    "7 a foreign namespace (CVE-2017-5985)": [(HERE, "test_two_users_ask_for_each_others")],
    "8 a name from somebody else's engine (CVE-2026-39402)": [
        ("engines/test_podman.py", "test_a_users_own_container_is_opened_and_entered_by_that_user_alone"),
        ("engines/test_podman.py", "test_what_a_users_engine_says_of_a_process_of_others_is_worth_nothing"),
        ("daemon/engines/test_roster.py", "test_a_socket_of_a_user_counts_for_nothing_as_roots"),
        ("daemon/engines/test_container.py", "test_names_of_a_users_engine_are_no_names_for_rules"),
        ("attacks/test_engines.py", "test_whoever_listens_in_the_place_of_a_stopped_container_is_not_asked"),
        ("attacks/test_engines.py", "test_no_pattern_for_names_fits_an_id_or_what_an_image_says_of_itself"),
    ],
    "9 paths, and learning what exists (CVE-2018-6556)": [
        (BROKER, "test_missing_things_each_have_their_error"),
        (BROKER, "test_replies_to_who_may_not_know_are_the_same_to_the_byte"),
    ],
    "10 a link is exchanged on the way (CVE-2021-30465)": [
        ("attacks/test_devices.py", "test_a_link_that_is_flipped_a_hundred_thousand_times_leads_nowhere"),
        ("attacks/test_devices.py", "test_a_device_that_is_exchanged_for_another_is_never_the_other"),
    ],
    "11 a hostile device node": [
        ("daemon/test_devices.py", "test_what_is_not_the_device_of_that_name_is_refused_and_never_opened"),
        ("daemon/test_devices.py", "test_a_terminal_never_becomes_the_daemons"),
        ("daemon/test_devices.py", "test_a_file_system_that_never_answers_costs_its_user_a_deadline_and_nobody_else"),
    ],
    "12 a descriptor too many goes out (CVE-2024-21626)": [
        (HERE, "test_what_is_handed_over_is_the_one_descriptor_and_nothing_else"),
        ("daemon/test_devices.py", "test_flags_are_cut_down_to_the_access_mode"),
    ],
    "13 the daemon is traced (CVE-2016-9962)": [(HERE, "test_nobody_may_trace_the_daemon_not_even_as_its_own_user")],
    "14 a thread stays in a foreign namespace": [
        ("inside/test_call.py", "test_when_the_thread_cannot_go_back_it_ends_and_says_so"),
        ("attacks/test_faults.py", "test_a_thread_that_cannot_come_back_ends_and_the_next_calls_are_right"),
        ("attacks/test_faults.py", "test_a_socket_that_came_to_life_elsewhere_is_not_handed_over"),
        ("daemon/test_sockets.py", "test_ten_thousand_sockets_are_each_where_they_should_be"),
    ],
    "15 a bad index (CVE-2025-8067)": [
        (BROKER, "test_a_bad_index_is_refused_and_its_descriptors_closed"),
        ("varlink/test_connection.py", "test_an_index_is_a_number_of_a_descriptor_and_nothing_that_python_takes_for_one"),
    ],
    "16 descriptors leak on truncation (CVE-2020-12049)": [
        ("linux/test_ancillary.py", "test_at_the_limit_of_open_files_nothing_leaks"),
        (BROKER, "test_a_descriptor_too_many_is_refused_by_every_method"),
    ],
    "17 replies that are never read": [
        (SERVER, "test_a_client_that_never_reads_is_dropped_and_what_it_pins_is_bounded"),
        (SERVER, "test_descriptors_that_nobody_reads_are_counted_for_the_user_over_all_connections"),
    ],
    "18 floods, trickles, huge and deep messages (CVE-2010-4352)": [
        (SERVER, "test_connections_are_limited_per_user_and_in_all_with_a_reserve_for_root"),
        (SERVER, "test_half_a_message_and_silence_is_dropped_after_the_deadline"),
        (SERVER, "test_who_breaks_the_protocol_is_hung_up_on_and_nobody_else"),
        (HERE, "test_a_thousand_connections_come_and_go_and_others_are_served"),
        ("varlink/test_message.py", "test_no_bytes_raise_anything_but_protocol_error"),
    ],
    "19 a container registered to point at a victim (CVE-2026-4105)": [
        ("systemd/test_units_and_machines.py", "test_a_machine_that_was_registered_to_point_at_a_victim_is_not_opened"),
        ("daemon/engines/test_container.py", "test_which_control_groups_are_the_containers"),
        ("engines/test_crun.py", "test_a_number_that_another_process_has_by_now_is_not_believed"),
    ],
    "20 a connection is passed on": [(HERE, "test_a_connection_that_is_passed_on_speaks_for_who_made_it_and_no_more")],
    "21 raw, packet and netlink sockets": [
        ("daemon/test_sockets.py", "test_each_kind_takes_its_own_permission"),
        ("daemon/test_sockets.py", "test_who_holds_a_netlink_socket_reads_links_and_cannot_change_them"),
    ],
    "22 forged and flooded records": [
        (HERE, "test_names_with_newlines_forge_no_record"),
        (HERE, "test_a_record_that_nobody_takes_lets_nothing_out"),
        ("daemon/test_audit.py", "test_a_journal_that_takes_nothing_refuses_and_says_so_once"),
        ("daemon/test_audit.py", "test_a_flood_of_refusals_is_counted_and_no_others_are"),
    ],
    "23 a policy that others can write": [
        ("daemon/test_configuration.py", "test_a_file_that_others_may_write_is_refused"),
        ("daemon/test_configuration.py", "test_a_file_of_somebody_else_is_refused"),
    ],
    "24 connecting and closing in a loop": [(NEIGHBOURS, "test_who_connects_and_closes_in_a_loop_keeps_nobody_waiting")],
    "25 sockets in root's name": [(NEIGHBOURS, "test_a_socket_made_inside_is_the_users_and_shares_no_port_of_roots")],
    "26 netlink sockets with root's credentials (CVE-2014-0181)": [
        (NEIGHBOURS, "test_what_a_setuid_program_writes_to_a_netlink_socket_changes_nothing"),
    ],
    "27 uid 0 of a container without a user namespace": [
        (NEIGHBOURS, "test_uid_0_without_capabilities_is_not_root_and_makes_nothing_in_roots_name"),
        (PEER, "test_uid_0_without_the_right_to_administer_the_host_is_anonymous"),
    ],
    "28 records drowned in a user's own calls": [
        ("attacks/test_records.py", "test_a_user_with_more_calls_than_the_limit_is_slowed_down_and_nobody_else"),
    ],
    "29 a journal that others keep busy": [
        ("attacks/test_records.py", "test_a_flooded_journal_takes_every_record_and_nobody_is_refused"),
    ],
    "30 hanging up in the middle of a list": [
        (NEIGHBOURS, "test_who_hangs_up_in_the_middle_of_a_list_is_not_locked_out_and_neither_are_others"),
        ("daemon/limits/test_abandonable_threads.py", "test_who_is_cancelled_while_waiting_leaves_its_place_to_others"),
    ],
    "31 descriptors that are slow to close": [
        (NEIGHBOURS, "test_descriptors_that_are_slow_to_close_wait_for_their_own_user_alone"),
    ],
    "32 subordinate uids, and a full table": [
        (NEIGHBOURS, "test_subordinate_uids_count_for_their_user_and_a_full_table_makes_room"),
        ("daemon/limits/test_users.py", "test_a_subordinate_uid_is_counted_to_its_user"),
    ],
    "33 holding under another's name": [
        (NEIGHBOURS, "test_nobody_is_led_to_what_another_user_holds_by_a_pattern"),
        ("daemon/test_held.py", "test_what_ip_netns_names_comes_before_what_is_held_under_the_same_name"),
    ],
    "34 ids that fit patterns for names": [
        ("engines/test_podman.py", "test_the_random_id_under_which_its_runtime_has_it_fits_no_pattern_for_names"),
        ("attacks/test_engines.py", "test_no_pattern_for_names_fits_an_id_or_what_an_image_says_of_itself"),
    ],
    "35 hundreds of busy connections": [
        (NEIGHBOURS, "test_a_user_with_250_busy_connections_is_served_in_turn_with_others"),
        ("daemon/limits/test_fair_queue.py", "test_a_user_who_asks_little_goes_before_many_who_ask_much"),
    ],
    "36 a flood of questions to systemd": [("systemd/test_bus.py", "test_one_users_250_calls_in_flight_are_nobody_elses_wait")],
    "37 new namespaces without end": [(NEIGHBOURS, "test_new_namespaces_take_a_rule_and_are_counted_to_who_asked")],
    "38 the host's network taken for a container's": [
        ("daemon/test_sockets.py", "test_a_target_without_a_network_of_its_own_is_told_so"),
        ("daemon/test_host_networks.py", "test_a_network_that_could_be_the_hosts_is_taken_for_it"),
    ],
    "39 patterns that take long": [(NEIGHBOURS, "test_a_pattern_takes_no_longer_than_the_name_it_is_held_against")],
    "40 helpers for users' own engines": [
        ("attacks/test_own_engines.py", "test_many_different_questions_use_a_small_part_of_a_processor"),
    ],
    "41 what the kernel refuses the same user": [(NEIGHBOURS, "test_what_the_kernel_refuses_a_user_is_not_that_users_own")],
    "42 what a refusal tells by its time": [(NEIGHBOURS, "test_a_refusal_says_by_its_time_no_more_than_by_its_text")],
    "43 what others do, and the host's numbers": [
        (NEIGHBOURS, "test_others_learn_nothing_of_what_the_broker_does_for_others"),
        (NEIGHBOURS, "test_nobody_in_a_pid_namespace_learns_numbers_of_the_hosts"),
    ],
    "44 a stream that its reader leaves": [
        (NEIGHBOURS, "test_a_stream_that_its_reader_leaves_ends_the_connection_and_what_was_asked_behind_it"),
    ],
    "45 a broker that does not answer, or means harm": [
        ("client/test_deadlines.py", "test_a_call_to_a_stopped_broker_ends"),
        ("client/test_hostile.py", "test_it_ends_with_an_error_of_ours_and_leaves_nothing"),
    ],
}


@pytest.mark.parametrize("attack", TABLE)
def test_every_attack_has_tests_that_are_there(attack: str) -> None:
    for file, name in TABLE[attack]:
        tree = ast.parse((TESTS / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}, (
            f"{file} has no {name}"
        )
