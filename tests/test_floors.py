"""The floors: an import goes down, never up; and the front door is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).parent.parent / "nsbroker"
FLOORS = [
    {"version", "errors"},
    {"address", "linux"},
    {"identity", "socket_kind"},
    {"inside", "opening"},
    {"creation"},
    {"namespace"},
    {"conduit", "lookup", "target"},
    {"description", "varlink"},
    {"interface"},
    {"client"},
    {"daemon"},
    {"cli"},
    {"__main__"},
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def floor(module: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if module in names)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its floor"
            assert node.module
            yield from (f"{node.module}.{name.name}" for name in node.names) if node.module == "nsbroker" else (node.module,)


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_from_its_own_floor_or_below(path: Path) -> None:
    own = floor(part(path))
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "nsbroker":
            other = rest.partition(".")[0]
            assert floor(other) < own or other == part(path), f"{path} imports {name} from the same floor or above"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_foreign_packages_stay_where_they_belong(path: Path) -> None:
    names = {name.partition(".")[0] for name in imports(path)}
    here = path.relative_to(PACKAGE)
    if here.parts[0] == "linux":
        assert names <= set(sys.stdlib_module_names) | {"nsbroker"}
    if "systemd" in names:
        assert here == Path("daemon/service.py")
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


def test_the_map_in_the_package_names_every_part() -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    for names in FLOORS[:-1]:
        for name in names - {"version"}:
            assert f"    {name}" in text, f"{name} is missing in the map"
