"""The floors: an import goes down, never up; the front door is light; and `tests/` mirrors the package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "nsbroker"
FLOORS = {
    "": [
        {"version", "errors"},
        {"linux"},
        {"model"},
        {"capture", "inside", "names"},
        {"namespace"},
        {"conduit", "varlink"},
        {"protocol"},
        {"client"},
        {"via"},
        {"daemon"},
        {"cli"},
        {"__main__"},
    ],
    "client": [
        {"addresses", "forking", "lookup"},
        {"results"},
        {"events"},
        {"requests"},
        {"file_requests", "held_requests", "interface_requests"},
        {"connecting", "pending"},
        {"transport"},
        {"async_calls", "blocking_calls"},
        {"async_methods", "blocking_methods"},
        {"async_broker"},
        {"asyncio", "blocking", "trio"},
    ],
    "daemon": [
        {"histogram", "ownership", "pace", "systemd"},
        {"configuration"},
        {"limits"},
        {"peer"},
        {"record_sink"},
        {"record_queue"},
        {"audit", "engines", "policy"},
        {"targets"},
        {"context"},
        {"discovery"},
        {"methods"},
        {"dispatcher"},
        {"listener", "outbox"},
        {"server"},
        {"main"},
    ],
    "cli": [
        {"terminal"},
        {"arguments", "formatting", "output", "reporting", "rule_text", "time_limit"},
        {"capturing", "child", "completion", "connection", "drawing", "execute", "exporter", "forwarding", "service_program"},
        {"capture_targets", "extcap_folder", "grant_files", "reloading", "units"},
        {"diagnosis"},
        {"commands"},
        {"main"},
    ],
}
"""For each folder that has floors, what is on each: the lowest first."""
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))
TESTED_ELSEWHERE: dict[str, tuple[str, str]] = {
    "cli/forwarding/networks": ("cli/commands/test_forward_reverse.py", "both are used by every forward"),
    "cli/forwarding/listener": ("cli/commands/test_forward_reverse.py", "whole forwards run"),
    "cli/forwarding/running": ("cli/commands/test_forward.py", "whole forwards run"),
    "cli/forwarding/streams": ("cli/commands/test_forward.py", "whole forwards run"),
    "capture/libpcap": ("capture/test_filters.py", "compiles what the filters are made of"),
    "capture/link_types": ("capture/test_filters.py", "data alone"),
    "cli/capture_targets": ("cli/commands/test_extcap.py", "what `extcap` lists"),
    "cli/capturing": ("cli/commands/test_capture.py", "what `capture` and `extcap` share"),
    "cli/commands/remove_extcap": ("cli/commands/test_install_extcap.py", "it removes what `install-extcap` wrote"),
    "cli/extcap_folder": ("cli/commands/test_install_extcap.py", "what both commands do"),
    "cli/time_limit": ("cli/completion/test_targets.py", "ends a search in time"),
    "cli/commands/via": ("via/test_programs.py", "whole programs run under it"),
    "linux/seccomp_filter": ("linux/test_seccomp.py", "the filter is tested by system calls that it traps"),
    "via/overlay": ("via/test_names.py", "whole programs see the files"),
    "via/launch": ("via/test_programs.py", "whole programs run under it"),
    "names/awaiting": ("client/test_lookup.py", "asks a real name server inside, with every client"),
    "names/blocking": ("client/test_lookup.py", "asks a real name server inside, with every client"),
    "client/file_requests": ("client/test_opened_files.py", "what all clients share"),
    "linux/file_system": ("linux/test_foreign_file.py", "a step of reading such a file"),
    "model/target_file": ("daemon/methods/test_open_file.py", "data alone"),
    "protocol/file_messages": ("protocol/test_messages.py", "data, which is compared with the interface"),
    "daemon/configuration/problems": ("daemon/configuration/test_loading.py", "what every error of a file is made of"),
    "daemon/methods/several_targets": ("daemon/methods/test_add_interface.py", "a veth has two targets"),
    "daemon/methods/explain_messages": ("daemon/methods/test_explain.py", "what is asked and replied with and without `as`"),
    "daemon/configuration/settings": ("daemon/configuration/test_loading.py", "data alone"),
    "model/device_access": ("daemon/methods/test_devices.py", "flags that the method honours or refuses"),
    "conduit/async_conduit": ("conduit/test_conduit.py", "what the conduits of trio and asyncio share, tested with both"),
    "conduit/blocking": ("conduit/test_conduit.py", "each test runs with all conduits"),
    "conduit/trio": ("conduit/test_conduit.py", "each test runs with all conduits"),
    "model/control_group": ("daemon/engines/test_container.py", "engines and `namespace.docker` share it"),
    "model/has_fileno": ("conduit/test_core.py", "a protocol of one method"),
    "namespace/docker": ("engines/test_docker_without_broker.py", "needs a real docker"),
    "cli/commands/grants": ("cli/commands/test_grant.py", "what `grant` wrote is what it lists"),
    "cli/commands/revoke": ("cli/commands/test_grant.py", "it removes what `grant` wrote"),
    "cli/grant_files": ("cli/commands/test_grant.py", "the commands write, list and remove the files"),
    "cli/reloading": ("cli/commands/test_grant.py", "runs only as a part of these commands"),
    "__main__": ("cli/test_main.py", "every test of a command runs it"),
    "client/held_requests": ("client/test_every_client.py", "every client makes these calls"),
    "protocol/target_spec": ("protocol/test_messages.py", "how targets are written and parsed, with the messages that have them"),
    "protocol/interface_messages": ("protocol/test_messages.py", "data, which is compared with the interface"),
    "errors": ("protocol/test_messages.py", "data, which is compared with the interface"),
    "version": ("cli/test_main.py", "data alone"),
    "cli/commands/containers": ("engines/test_every_engine.py", "prints what the client returns, which needs real engines"),
    "cli/commands/create": ("cli/commands/test_hold.py", "one test goes through all commands for held namespaces"),
    "cli/commands/install_units": ("systemd/test_installing.py", "needs a booted systemd"),
    "cli/commands/list_held": ("cli/commands/test_hold.py", "one test goes through all commands for held namespaces"),
    "cli/commands/release": ("cli/commands/test_hold.py", "one test goes through all commands for held namespaces"),
    "cli/commands/remove_units": ("systemd/test_installing.py", "needs a booted systemd"),
    "cli/commands/completion": ("cli/completion/test_bash.py", "prints what the modules for the shells return"),
    "cli/diagnosis/engines": ("cli/commands/test_doctor.py", "a part of what the command prints"),
    "cli/diagnosis/rights": ("cli/commands/test_doctor.py", "a part of what the command prints"),
    "cli/diagnosis/row": ("cli/commands/test_doctor.py", "data alone"),
    "cli/connection": ("client/test_deadlines.py", "what every command that asks the broker does first"),
    "cli/drawing/grouping": ("cli/drawing/test_chart.py", "makes the columns of a chart, and is seen in them"),
    "cli/child": ("cli/commands/test_exec.py", "runs only as a part of a command"),
    "cli/execute": ("cli/commands/test_exec.py", "runs only as a part of a command"),
    "cli/exporter/network_metrics": ("cli/commands/test_exporter.py", "what whole scrapes contain"),
    "cli/exporter/networks": ("cli/commands/test_exporter.py", "needs a broker, and networks that come and go"),
    "cli/exporter/open_network": ("cli/commands/test_exporter.py", "what whole scrapes contain"),
    "cli/output": ("cli/test_terminal_safety.py", "prints what all commands print"),
    "cli/service_program": ("systemd/test_installing.py", "needs a booted systemd"),
    "cli/units": ("systemd/test_installing.py", "needs a booted systemd"),
    "client/async_broker": ("client/test_in_flight.py", "what the trio and the asyncio client share"),
    "client/async_methods": ("client/test_every_client.py", "what the trio and the asyncio client share"),
    "client/async_calls": ("client/test_in_flight.py", "what the trio and the asyncio client share"),
    "client/blocking_calls": ("client/test_open_many.py", "generated from `async_calls`"),
    "client/connecting": ("client/test_descriptor.py", "what all clients check before they connect"),
    "client/pending": ("client/test_in_flight.py", "data, which shows in calls that are under way"),
    "client/requests": ("client/test_every_client.py", "what all clients share"),
    "client/results": ("client/test_hostile.py", "what all clients do with a reply"),
    "client/transport": ("client/test_hostile.py", "what all clients do with a connection"),
    "daemon/context": ("attacks/test_faults.py", "data alone"),
    "daemon/discovery/relations": ("daemon/discovery/test_scan.py", "a part of a scan"),
    "daemon/discovery/scan_result": ("daemon/discovery/test_scan.py", "data alone"),
    "daemon/discovery/view": ("daemon/discovery/test_visibility.py", "one subject: what a user sees of a scan"),
    "daemon/engines/cri": ("daemon/engines/test_trusted_directory.py", "one test covers all engines with state files"),
    "daemon/engines/dbus": ("systemd/test_bus.py", "needs a booted systemd"),
    "daemon/engines/dbus_connection": ("systemd/test_bus.py", "needs a booted systemd"),
    "daemon/engines/docker": ("daemon/engines/test_registry.py", "the made-up engine of those tests speaks its API"),
    "daemon/engines/oci_runtime": ("daemon/engines/test_crun.py", "what crun and runc share"),
    "daemon/engines/query": ("daemon/engines/test_registry.py", "the registry makes the queries"),
    "daemon/engines/rootless": ("attacks/test_own_engines.py", "needs engines of real users"),
    "daemon/engines/rootless_queue": ("attacks/test_own_engines.py", "needs engines of real users"),
    "daemon/engines/runc": ("daemon/engines/test_trusted_directory.py", "one test covers all engines with state files"),
    "daemon/limits/created": ("attacks/test_neighbours.py", "needs namespaces of real users"),
    "daemon/methods/call": ("daemon/test_dispatcher.py", "what all methods share"),
    "daemon/methods/list_containers": ("engines/test_every_engine.py", "needs real engines"),
    "daemon/systemd/journal": ("daemon/test_audit.py", "only records are sent by it"),
    "daemon/systemd/service_manager": ("systemd/test_service.py", "needs a booted systemd"),
    "daemon/targets/pinned": ("attacks/test_faults.py", "its steps fail there one by one"),
    "daemon/targets/units": ("systemd/test_units_and_machines.py", "needs a booted systemd"),
    "linux/credentials": ("attacks/test_neighbours.py", "needs real users"),
    "linux/file_handle": ("namespace/test_handle.py", "a step of opening a namespace by its name"),
    "linux/mounts": ("namespace/test_creation.py", "a step of naming a namespace"),
    "linux/pidfd": ("linux/test_process.py", "a process is read with it or with procfs"),
    "linux/procfs": ("linux/test_process.py", "a process is read with it or with pidfd"),
    "linux/socket_owner": ("namespace/test_search.py", "a step of a search"),
    "linux/statx": ("linux/test_nsfs.py", "a step of recognizing a namespace"),
    "model/description": ("protocol/test_messages.py", "data alone"),
    "namespace/opening": ("namespace/test_handle.py", "the steps of every way to make a handle"),
}
"""For each module without a file of tests of its own name: the file below tests/ that tests it, and why it is that one."""
APART = {"attacks", "browser", "engines", "incus", "prometheus", "systemd"}
"""The folders of tests that mirror nothing: they are attacks, or need other programs, real engines or a booted systemd."""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, as they are below the package; others with their own names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its floor"
            assert node.module
            names = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if is_module(name) else node.module for name in names)


def is_module(name: str) -> bool:
    place = PACKAGE.parent.joinpath(*name.split("."))
    return name.startswith("nsbroker.") and (place.is_dir() or place.with_suffix(".py").exists())


def floor(folder: str, room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS[folder]) if room in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_its_own_room_or_from_a_floor_below(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts
    for name in imports(path):
        package, *other = name.split(".")
        if package != "nsbroker" or not other:
            continue
        # They part where the first of their names differs.
        shared = next((place for place, pair in enumerate(zip(own, other, strict=False)) if pair[0] != pair[1]), None)
        folder = "/".join(own[:shared])
        if shared is not None and folder in FLOORS:
            assert floor(folder, other[shared]) < floor(folder, own[shared]), f"{path} imports {name} from its own floor or above"


@pytest.mark.parametrize("folder", FLOORS)
def test_every_room_has_a_floor_and_every_floor_only_rooms_that_exist(folder: str) -> None:
    place = PACKAGE / folder
    rooms = {path.stem for path in place.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set().union(*FLOORS[folder])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_modules_of_a_room_import_each_other_in_no_circle(folder: Path) -> None:
    room = folder.relative_to(PACKAGE).parts
    graph = {
        path.stem: {name.split(".")[-1] for name in imports(path) if tuple(name.split(".")[1:-1]) == room}
        for path in folder.glob("*.py")
    }
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & graph.keys() - {name}}
        assert leaves, f"{sorted(graph)} import each other"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_foreign_packages_stay_where_they_belong(path: Path) -> None:
    names = {name.partition(".")[0] for name in imports(path)}
    here = path.relative_to(PACKAGE)
    if here.parts[0] == "linux":
        assert names <= set(sys.stdlib_module_names) | {"nsbroker"}
    if "systemd" in names:
        assert here.parts[:2] == ("daemon", "systemd")
    if "trio" in names:
        assert here.parts[0] == "daemon" or here.name == "trio.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_has_one_subject_and_so_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", ["nsbroker", "nsbroker.cli.main", "nsbroker.client.blocking"])
def test_importing_the_client_or_the_command_loads_neither_trio_nor_systemd(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'trio', 'systemd', 'asyncio'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("folder", ["", "daemon"])
def test_the_map_in_the_package_names_every_room_from_the_lowest_floor_to_the_highest(folder: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text())) or ""
    named = [line.split()[0].rstrip("/,") for line in text.splitlines() if line.startswith("    ") and line.split()[0][0].islower()]
    rooms = [name for name in named if any(name in names for names in FLOORS[folder])]
    assert [floor(folder, name) for name in rooms] == sorted(floor(folder, name) for name in rooms)
    assert set(rooms) == set().union(*FLOORS[folder]) - {"version", "__main__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_has_tests_of_its_own_name_or_else_a_row_that_says_where_it_is_tested(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    has_own = (TESTS / place.with_name(f"test_{place.name}")).exists()
    assert has_own != (str(place.with_suffix("")) in TESTED_ELSEWHERE)


@pytest.mark.parametrize("module", TESTED_ELSEWHERE)
def test_a_row_names_a_module_and_a_file_of_tests_that_exist_and_a_reason(module: str) -> None:
    file, reason = TESTED_ELSEWHERE[module]
    assert (PACKAGE / f"{module}.py").is_file()
    assert (TESTS / file).is_file()
    assert Path(file).name.startswith("test_")
    assert reason


def test_tests_with_the_name_of_a_module_lie_where_the_module_lies() -> None:
    modules = {path.stem for path in FILES}
    for path in TESTS.rglob("test_*.py"):
        place = path.relative_to(TESTS)
        name = path.stem.removeprefix("test_")
        if place.parts[0] not in APART and name in modules:
            assert (PACKAGE / place.with_name(f"{name}.py")).exists(), f"{place}: no module of that name is there"
