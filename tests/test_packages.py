"""The source distribution, the wheel and the Debian package contain what they must."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nsbroker.version import VERSION

pytestmark = pytest.mark.once

CHECKOUT = Path(__file__).parent.parent
NAME = f"nsbroker-{VERSION}"
INFO = f"{NAME}.dist-info"
# The backend that pyproject.toml names, without pip, which would ask a package registry for it.
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
# Written into a source distribution by setuptools.
GENERATED = {"PKG-INFO", "setup.cfg"}


class Packages(NamedTuple):
    """The names of the files in a source distribution and in the wheel that was built from it; and the wheel's metadata."""

    source: frozenset[str]
    programs: frozenset[str]
    wheel: frozenset[str]
    metadata: Message


def build(kind: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-c", BUILD, kind, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    folder = tmp_path_factory.mktemp("packages")
    # setuptools writes into the folder that it builds from, and the checkout may belong to another user.
    unwanted = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")
    shutil.copytree(CHECKOUT, folder / "checkout", ignore=unwanted, symlinks=True)
    archive = build("build_sdist", folder / "checkout", folder)
    with tarfile.open(archive) as opened:
        files = [member for member in opened.getmembers() if not member.isdir()]
    subprocess.run(["tar", "-xf", archive], cwd=folder, check=True)
    with zipfile.ZipFile(build("build_wheel", folder / NAME, folder)) as wheel:
        return Packages(
            frozenset(member.name.removeprefix(f"{NAME}/") for member in files),
            frozenset(member.name.removeprefix(f"{NAME}/") for member in files if member.mode & 0o111),
            frozenset(wheel.namelist()),
            Parser().parsestr(wheel.read(f"{INFO}/METADATA").decode()),
        )


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return table


def list_with_git(*options: str) -> set[str]:
    if not (CHECKOUT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no checkout of git: the source distribution was not compared with what is under version control")
    # Another user may own the checkout.
    command = ["git", "-c", "safe.directory=*", "-C", str(CHECKOUT), "ls-files", "-z", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"git does not list the files of this checkout: {done.stderr.strip()}")
    return {name for name in done.stdout.split("\0") if name and (CHECKOUT / name).exists()}


def test_the_source_distribution_has_every_file_that_is_under_version_control(packages: Packages) -> None:
    controlled = list_with_git()
    assert controlled <= packages.source
    ours = {name for name in packages.source - GENERATED if not name.startswith("nsbroker.egg-info/")}
    assert ours <= controlled | list_with_git("--others", "--exclude-standard")


def test_the_source_distribution_has_what_make_needs(packages: Packages) -> None:
    wanted = {"Makefile", "LICENSE", "CHANGELOG.md", "README.md", "pyproject.toml", "tests/conftest.py", "examples/monitoring.toml"}
    assert wanted <= packages.source
    assert {".ci/install", "examples/demo.sh", "tests/private-host", "tests/boot-systemd", "debian/rules"} <= packages.programs
    assert not [name for name in packages.source if "__pycache__" in name or name.endswith(".pyc")]


def test_the_wheel_has_the_whole_package_the_units_and_nothing_else(packages: Packages) -> None:
    package = {
        str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "nsbroker").rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert {"nsbroker/py.typed", "nsbroker/protocol/io.nsbroker.Broker.varlink", "nsbroker/cli/drawing/page.js"} <= package
    units = {f"{NAME}.data/data/share/nsbroker/systemd/{path.name}" for path in (CHECKOUT / "systemd").iterdir()}
    other = {name for name in packages.wheel if not name.startswith(f"{INFO}/")}
    assert other == package | units
    assert f"{INFO}/licenses/LICENSE" in packages.wheel


def test_the_wheel_says_its_licence_and_the_versions_of_python(packages: Packages) -> None:
    assert packages.metadata["License-Expression"] == "MIT"
    assert packages.metadata["Version"] == VERSION
    classifiers = packages.metadata.get_all("Classifier") or []
    assert not [line for line in classifiers if line.startswith("License ::")]
    versions = [line.rpartition(" ")[2] for line in classifiers if re.search(r":: 3\.\d+$", line)]
    assert packages.metadata["Requires-Python"] == f">={versions[0]}"


def test_the_debian_package_has_the_version_of_this_one() -> None:
    assert (CHECKOUT / "debian/changelog").read_text().startswith(f"nsbroker ({VERSION}) ")


def test_the_debian_package_brings_or_depends_on_everything_that_this_one_requires() -> None:
    """What is vendored has the versions of pyproject.toml; for the rest there are packages of Debian."""
    extras = project()["optional-dependencies"]
    required = {split_requirement(line) for line in [*project()["dependencies"], *extras["daemon"], *extras["dns"]]}
    lines = (CHECKOUT / "debian/vendored.txt").read_text().splitlines()
    vendored = {split_requirement(line) for line in lines if line and not line.startswith("#")}
    depends = re.findall(
        r"^ (python3-[a-z0-9]+)(?: \(>= ([0-9.]+)~?\))?,$", (CHECKOUT / "debian/control").read_text(), re.MULTILINE
    )
    names = {"python3-systemd": "systemd-python"}
    debian = {(names.get(name, name.removeprefix("python3-")), version) for name, version in depends}
    assert required <= vendored | debian
    assert not {name for name, _ in vendored} & {name for name, _ in debian}


def split_requirement(line: str) -> tuple[str, str]:
    """Split `name>=version` of pyproject.toml or of requirements.txt."""
    name, _, version = line.partition("#")[0].strip().partition(">=")
    return name, version
