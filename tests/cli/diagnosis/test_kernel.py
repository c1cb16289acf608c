"""What is said of kernels with and without newer features."""

from nsbroker.cli.diagnosis import kernel
from nsbroker.cli.diagnosis.row import Verdict
from nsbroker.linux.features import Features


def test_every_feature_has_its_effect() -> None:
    assert set(kernel._EFFECTS) == set(Features._fields)


def test_a_new_kernel_is_one_line() -> None:
    [row] = kernel.check(Features(**dict.fromkeys(Features._fields, True)))
    assert row.verdict is Verdict.OK
    assert "lacks" not in row.text


def test_an_old_kernel_is_a_warning_only_for_what_users_notice() -> None:
    first, *others = kernel.check(Features())
    assert first.verdict is Verdict.OK
    assert "it lacks pidfd_thread" in first.text
    assert [row.verdict for row in others] == [Verdict.WARN] * 2
    assert "only rules for everyone apply to root" in others[0].text
    assert "cannot name a process by its number" in others[1].text
