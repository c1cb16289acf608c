"""`import nsbroker` is light, and still has everything that it promises."""

import subprocess
import sys

import pytest

import nsbroker

pytestmark = pytest.mark.once


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_it_loads_no_other_module_of_the_package_but_the_version() -> None:
    code = "import sys, nsbroker; print(sorted(name for name in sys.modules if name.startswith('nsbroker.')))"
    assert run(code) == "['nsbroker.version']"


@pytest.mark.parametrize("name", nsbroker.__all__)
def test_each_name_is_there_at_first_use(name: str) -> None:
    assert run(f"import nsbroker; print(nsbroker.{name} is not None, {name!r} in dir(nsbroker))") == "True True"
    assert run(f"from nsbroker import {name}; print({name} is not None)") == "True"


@pytest.mark.parametrize(
    "expression",
    [
        "errors.Timeout", "client.blocking.connect", "client.transport.DEFAULT_TIMEOUT", "namespace.Namespace",
        "namespace.reference.Reference", "model.target.Target", "model.identity.NamespaceType", "conduit.Conduit", "inside.call",
    ],
)  # fmt: skip
def test_packages_are_there_without_an_import_of_their_own(expression: str) -> None:
    assert run(f"import nsbroker; print(nsbroker.{expression} is not None)") == "True"


def test_a_star_import_has_all_names() -> None:
    assert run("from nsbroker import *; print(connect.__name__, Namespace.__name__)") == "connect Namespace"


def test_what_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nsbroker' has no attribute 'nothing'"):
        nsbroker.nothing  # type: ignore[attr-defined]  # noqa: B018 - that it does not exist is what is tested
