"""Who else could change a file: the owner and the mode."""

import os
from pathlib import Path

from nsbroker.daemon.ownership import Fault, find_fault


def test_others_who_could_write_are_a_fault_with_the_command_that_mends_it(tmp_path: Path) -> None:
    me = os.geteuid()
    path = tmp_path / "a file"
    path.write_text("")
    path.chmod(0o640)
    assert find_fault(path, path.stat(), (me,)) is None
    assert find_fault(path, path.stat(), (me + 1,)) == Fault(
        f"belongs to uid {me}, not to uid {me + 1}", f"chown {me + 1} '{path}'"
    )
    path.chmod(0o660)
    fault = find_fault(path, path.stat(), (me,))
    assert fault == Fault("can be written by others than its owner (mode 660)", f"chmod go-w '{path}'")


def test_only_a_folder_can_be_guarded_by_something_else_than_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    owners = (os.geteuid(),)
    for place in (tmp_path, path):
        place.chmod(0o1777)
        assert find_fault(place, place.stat(), owners) is not None
    assert find_fault(tmp_path, tmp_path.stat(), owners, is_guarded=True) is None
    assert find_fault(path, path.stat(), owners, is_guarded=True) is not None
    tmp_path.chmod(0o700)


def test_the_mode_of_a_link_means_nothing(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("x")
    assert find_fault(link, link.lstat(), (os.geteuid(),)) is None
