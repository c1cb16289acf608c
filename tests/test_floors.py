"""The floors: an import goes down, never up; and the front door is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).parent.parent / "nsbroker"
FLOORS = {
    "": [
        {"version", "errors"},
        {"linux"},
        {"model"},
        {"inside"},
        {"namespace"},
        {"conduit", "varlink"},
        {"protocol"},
        {"client"},
        {"daemon"},
        {"cli"},
        {"__main__"},
    ],
    "client": [
        {"addresses", "forking"},
        {"results"},
        {"requests"},
        {"transport"},
        {"async_broker"},
        {"asyncio", "blocking", "trio"},
    ],
    "daemon": [
        {"configuration", "systemd"},
        {"limits"},
        {"peer"},
        {"record_sink"},
        {"audit", "engines", "policy"},
        {"targets"},
        {"context", "discovery"},
        {"methods"},
        {"dispatcher"},
        {"listener", "server"},
        {"main"},
    ],
    "cli": [
        {"terminal"},
        {"arguments", "formatting", "output"},
        {"connection", "drawing", "execute", "relay", "service_program"},
        {"units"},
        {"commands"},
        {"main"},
    ],
}
"""For each folder that has floors, what is on each: the lowest first."""
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


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
