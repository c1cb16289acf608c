import pytest

from nsbroker.errors import InvalidTarget
from nsbroker.model.target import ENGINES, KINDS, Target, TargetKind

pytestmark = pytest.mark.once

GOOD = [
    "pid:4711", "pid:1", "pid:2147483647", "tid:4711/4715", "name:blue", "name:a.b_c-d", "container:web", "docker:web",
    "cri:default/pod1/c1", "machined:vm1", "unit:nginx.service", "net:[4026531840]", "uts:[1]",
    "path:/run/docker/netns/1a2b", "self",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_a_target_prints_as_it_was_written(text: str) -> None:
    assert str(Target.parse(text)) == text


def test_a_target_knows_its_parts() -> None:
    assert Target.parse("tid:4711/4715")[:4] == (TargetKind.TID, "4711/4715", 4711, 4715)
    assert Target.parse("podman:web").engine == "podman"
    assert Target.parse("container:web").engine == ""
    assert Target.pidfd(7).value == "7"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "KIND:VALUE"),
        ("blue", "KIND:VALUE"),
        ("4711", "KIND:VALUE"),
        ("4711", "such as pid:4711"),
        ("blue", "such as name:blue or container:blue"),
        ("not a name", "such as pid:4711 or name:blue"),
        (4711, "a target is text such as 'pid:4711', or a Target"),
        (b"self", "a target is text"),
        (None, "a target is text"),
        ("nmae:blue", "did you mean name:"),
        ("dokcer:web", "did you mean docker:"),
        ("xyzzy:1", "known are pid:"),
        ("pidfd:3", "no kind of target"),
        ("pid:", "no process or thread number"),
        ("pid:0", "from 1 to"),
        ("pid:-1", "no process or thread number"),
        ("pid:1.5", "no process or thread number"),
        ("pid: 1", "no process or thread number"),
        ("pid:9223372036854775808", "no process or thread number"),
        ("pid:2147483648", "from 1 to"),
        ("pid:١", "no process or thread number"),
        ("tid:4711", "tid:PROCESS/THREAD"),
        ("tid:1/0", "from 1 to"),
        ("name:", "letters, digits"),
        ("name:..", "letters, digits"),
        ("name:a/b", "letters, digits"),
        ("name:a\0b", "letters, digits"),
        ("name:" + "x" * 300, "letters, digits"),
        ("path:run/netns/a", "absolute"),
        ("path:/run/../etc", "absolute"),
        ("path:/run//x", "absolute"),
        ("path:/", "absolute"),
        ("path:/a\nb", "control"),
        ("net:[1", "no namespace id"),
        ("container:", "letters, digits"),
        ("container:a\nb", "letters, digits"),
        ("docker:" + "x" * 4096, "letters, digits"),
        ("docker:web*", "letters, digits"),
        ("docker:a b", "letters, digits"),
        ("docker:a/../b", "letters, digits"),
        ("docker:../b", "letters, digits"),
        ("docker:/a", "letters, digits"),
        ("docker:a/", "letters, digits"),
        ("cri:a/b/c/d", "letters, digits"),
        ("unit:nginx", "with its suffix"),
        ("unit:a b.service", "with its suffix"),
        ("unit:../x.service", "with its suffix"),
        ("unit:" + "x" * 300 + ".service", "with its suffix"),
    ],
)
def test_a_bad_target_is_refused_with_the_right_spelling(text: str, says: str) -> None:
    with pytest.raises(InvalidTarget, match=says) as caught:
        Target.parse(text)
    assert len(str(caught.value)) < 400, "an error must not repeat pages of input"


@pytest.mark.parametrize("number", [0, -1, True, 1.5, 2**31, "1"])
def test_a_number_is_an_integer_in_range_not_a_bool_or_text(number: int) -> None:
    for make in (Target.process, lambda bad: Target.thread(1, bad), lambda bad: Target.thread(bad, 1)):
        with pytest.raises(InvalidTarget):
            make(number)


@pytest.mark.parametrize("fd", [-1, True, 0.5])
def test_a_pidfd_is_a_descriptor(fd: int) -> None:
    with pytest.raises(InvalidTarget):
        Target.pidfd(fd)


def test_every_engine_and_every_namespace_type_is_a_kind() -> None:
    assert set(ENGINES) <= set(KINDS)
    assert {"net", "user", "time"} <= set(KINDS)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InvalidTarget, match="no engine"):
        Target.container("web", "dockerr")
