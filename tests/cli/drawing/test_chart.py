"""Who shares what: from descriptions to columns, their order, and bars."""

import pytest

from nsbroker.cli.drawing.chart import LANES, Bar, Chart, chart_of
from nsbroker.cli.drawing.details import about_column, about_namespace, wrapped
from nsbroker.cli.drawing.grouping import columns_of
from nsbroker.cli.terminal import escaped
from nsbroker.model.description import Holder, HolderKind, LeadingProcess, NamespaceDescription
from nsbroker.model.identity import NamespaceType
from tests.cli.imagined import HOSTILE, HOSTILE_AS_TEXT, OWN, POD, Imagined, T, busy_host


def labels(chart: Chart) -> list[str]:
    return [column.label for column in chart.columns]


def bar_of(chart: Chart, space: NamespaceDescription) -> Bar:
    return next(bar for bar in chart.bars if (bar.space.type, bar.space.inode) == (space.type, space.inode))


def sharers(chart: Chart, space: NamespaceDescription) -> set[str]:
    return {chart.columns[place].label for place in bar_of(chart, space).columns}


def test_the_host_is_the_first_column_and_units_that_are_where_it_is_are_folded_into_it() -> None:
    host = Imagined()
    host.unit("ssh.service")
    host.unit("cron.service")
    private = host.unit("udevd.service", (T.MNT,))
    chart = chart_of(host.spaces)
    assert labels(chart) == ["host", "unit:udevd.service"]
    assert chart.columns[0].also == ["unit:cron.service", "unit:init.scope", "unit:ssh.service"]
    assert sharers(chart, private[T.NET]) == {"host", "unit:udevd.service"}
    assert sharers(chart, private[T.MNT]) == {"unit:udevd.service"}


def test_without_a_first_process_the_host_is_what_the_kernel_made_first() -> None:
    spaces = [NamespaceDescription(T.UTS, 4026531838, 4, 70), NamespaceDescription(T.NET, 4026531833, 4, 70)]
    assert labels(chart_of(spaces)) == ["host"]


def test_every_namespace_is_one_bar() -> None:
    host = busy_host(30)
    chart = chart_of(host.spaces)
    assert sorted((bar.space.type, bar.space.inode) for bar in chart.bars) == sorted((one.type, one.inode) for one in host.spaces)


def test_those_that_share_lie_side_by_side_and_have_one_colour() -> None:
    host = Imagined()
    # Made in turns: neither names nor numbers bring them together.
    first, second = host.pod("a/p"), host.pod("b/p")
    for name in ("z", "m"):
        host.container(f"docker:{name}-first", OWN, {kind: first[kind] for kind in POD})
        host.container(f"docker:{name}-second", OWN, {kind: second[kind] for kind in POD})
    chart = chart_of(host.spaces)
    for sandbox in (first, second):
        bars = [bar_of(chart, sandbox[kind]) for kind in POD]
        assert {len(bar.runs) for bar in bars} == {1}
        assert {len(bar.columns) for bar in bars} == {3}
        assert len({bar.colour for bar in bars}) == 1
        assert bar_of(chart, sandbox[T.PID]).colour is None
    assert bar_of(chart, first[T.NET]).colour != bar_of(chart, second[T.NET]).colour


def test_one_that_is_shared_across_others_has_runs_and_a_line_of_its_own() -> None:
    host = Imagined()
    first = host.container("docker:1", (T.NET, T.IPC))
    second = host.container("docker:2", (T.UTS, T.CGROUP), {T.NET: first[T.NET]})
    third = host.container("docker:3", (T.PID,), {T.IPC: first[T.IPC], T.UTS: second[T.UTS], T.CGROUP: second[T.CGROUP]})
    host.container("docker:4", (), {T.NET: second[T.NET], T.PID: third[T.PID]})
    chart = chart_of(host.spaces)
    for bar in chart.bars:
        assert [place for first, last in bar.runs for place in range(first, last + 1)] == list(bar.columns)
    apart = [bar for bar in chart.bars if len(bar.runs) > 1]
    assert apart
    for bar in apart:
        assert 0 <= bar.lane < LANES
        for other in apart:
            if other is not bar and other.row == bar.row:
                assert other.lane != bar.lane or other.columns[0] > bar.columns[-1] or bar.columns[0] > other.columns[-1]


def test_the_unit_of_a_container_is_folded_into_its_column() -> None:
    host = Imagined()
    web = host.container("docker:web", (T.NET, *OWN))
    host.unit("docker-4f1c.scope", (), web)
    chart = chart_of(host.spaces)
    assert labels(chart) == ["host", "docker:web"]
    assert chart.columns[1].also == ["unit:docker-4f1c.scope"]


def test_a_container_that_its_runtime_knows_too_is_one_column() -> None:
    host = Imagined()
    for name in ("web", "db"):
        host.container(f"podman:{name}", (), host.container(f"crun:{name}-7f3a", (T.NET, *OWN)))
    host.container("crun:alone", (T.NET, *OWN))
    chart = chart_of(host.spaces)
    assert labels(chart) == ["host", "crun:alone", "podman:db", "podman:web"]
    assert chart.columns[3].also == ["crun:web-7f3a"]


def test_containers_of_which_only_the_network_is_seen_stay_apart() -> None:
    host = Imagined()
    network = host.container("podman:web", (T.NET,))[T.NET]
    host.container("crun:db", (), {T.NET: network})
    chart = chart_of([network])
    assert labels(chart) == ["crun:db", "podman:web"]


def test_a_unit_that_joins_the_network_of_a_container_shares_it() -> None:
    host = Imagined()
    web = host.container("docker:web", (T.NET, *OWN))
    host.unit("exporter.service", (T.MNT,), {T.NET: web[T.NET]})
    assert sharers(chart_of(host.spaces), web[T.NET]) == {"docker:web", "unit:exporter.service"}


def test_a_unit_that_containers_were_started_from_is_where_it_is_itself() -> None:
    host = Imagined()
    host.unit("session-1.scope")
    for name in ("web", "db"):
        for space in host.container(f"crun:{name}", (T.NET, *OWN)).values():
            assert space.units is not None
            if space.units == []:
                space.units.append("session-1.scope")
    chart = chart_of(host.spaces)
    assert set(labels(chart)) == {"host", "crun:web", "crun:db"}
    assert "unit:session-1.scope" in chart.columns[0].also


def test_what_is_in_a_container_a_second_time_has_a_second_column_beside_it() -> None:
    host = Imagined()
    host.container("incus:vm", (T.NET, *OWN))
    host.container("docker:other", (T.NET, *OWN))
    inner = host.make(T.MNT)
    inner.containers = ["incus:vm"]
    chart = chart_of(host.spaces)
    assert labels(chart).count("incus:vm") == 2
    place = bar_of(chart, inner).columns[0]
    assert "incus:vm" in (chart.columns[place - 1].label, chart.columns[min(place + 1, len(chart.columns) - 1)].label)


@pytest.mark.parametrize(
    ("holder", "processes", "label"),
    [
        (Holder(HolderKind.MOUNT, path="/run/netns/blue"), 0, "bound file /run/netns/blue"),
        (Holder(HolderKind.MOUNT, path="/run/netns/blue"), 2, "bound file /run/netns/blue"),
        (Holder(HolderKind.MOUNT, pid=7, path="/x"), 0, "bound file /x"),
        (Holder(HolderKind.MOUNT, pid=7, path="/x"), 1, "process 101 sleep"),
        (Holder(HolderKind.DESCRIPTOR, path="name:lab"), 0, "held as name:lab"),
        (Holder(HolderKind.DESCRIPTOR, pid=900, number=5), 0, "process 900 open files"),
        (Holder(HolderKind.SOCKET, pid=900, number=5), 0, "process 900 sockets"),
        (Holder(HolderKind.THREAD, pid=900, number=901), 0, "process 900 threads"),
        (Holder(HolderKind.CHILDREN, pid=900), 0, "process 900 children to come"),
        (Holder(HolderKind.NAMESPACE, path="net:[7]"), 0, "what is above net:[7]"),
        (None, 0, "of others net:[4026531849]"),
    ],
)  # fmt: skip
def test_what_belongs_to_nothing_is_named_by_what_holds_it(holder: Holder | None, processes: int, label: str) -> None:
    host = Imagined()
    host.make(T.NET, "/bin/sleep 1", [holder] if holder else [], processes=processes)
    assert labels(chart_of(host.spaces))[1:] == [label]


def test_two_of_a_type_that_one_process_holds_are_two_columns() -> None:
    host = Imagined()
    for number in (5, 6):
        host.make(T.NET, holders=[Holder(HolderKind.DESCRIPTOR, pid=900, number=number)], processes=0)
    host.make(T.UTS, holders=[Holder(HolderKind.DESCRIPTOR, pid=900, number=7)], processes=0)
    assert labels(chart_of(host.spaces)) == ["host"] + ["process 900 open files"] * 2


def test_types_choose_rows_and_leave_out_columns_without_any() -> None:
    host = Imagined()
    host.unit("udevd.service", (T.MNT,))
    host.container("docker:web", (T.NET,))
    host.make(T.UTS)
    chart = chart_of(host.spaces, [T.NET])
    assert chart.rows == (T.NET,)
    assert labels(chart) == ["host", "docker:web"]
    assert "unit:udevd.service" in chart.columns[0].also
    assert {bar.space.type for bar in chart.bars} == {T.NET}


def test_nothing_at_all() -> None:
    assert chart_of([]) == Chart((), chart_of([]).rows, ())
    assert set(chart_of([]).rows) == set(NamespaceType)


def test_names_sort_as_people_count() -> None:
    host = Imagined()
    for number in (10, 9, 1):
        host.container(f"docker:web-{number}", (T.NET,))
    assert labels(chart_of(host.spaces)) == ["host", "docker:web-1", "docker:web-9", "docker:web-10"]


def test_two_thousand_namespaces_take_no_time() -> None:
    chart = chart_of(busy_host(500).spaces)
    assert len(chart.columns) > 450
    assert all(len(bar.runs) == 1 for bar in chart.bars if bar.colour is not None)


def test_details_say_who_what_and_why() -> None:
    host = Imagined()
    space = host.make(T.PID, "nginx: master", [Holder(HolderKind.MOUNT, path="/run/x"), Holder(HolderKind.DESCRIPTOR, 900, 5)])
    space.owner, space.parent = 4026531837, 4026531836
    assert list(about_namespace(space, ["docker:web", "docker:db"])) == [
        f"pid:[{space.inode}]",
        "shared by: docker:web, docker:db",
        "processes: 1",
        "leader: 101 nginx: master (uid 0)",
        "held by: /run/x, file 5 of process 900",
        "owner: uid 0, user:[4026531837]",
        "parent: pid:[4026531836]",
    ]
    space.process = LeadingProcess(7, command="[ended]")
    assert "leader: 7 [ended]" in about_namespace(space, ["docker:web"])
    host.unit(HOSTILE)
    column = columns_of(host.spaces, list(NamespaceType))[0]
    assert list(about_column(column))[-1] == f"2 units: unit:{HOSTILE_AS_TEXT}, unit:init.scope"


def test_whatever_names_contain_they_are_one_line_of_text() -> None:
    assert escaped(HOSTILE) == HOSTILE_AS_TEXT
    assert escaped("grün-名前") == "grün-名前"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("web", ["web"]),
        ("", []),
        ("shop-web/checkout-7db6", ["shop-web/", "checkout-7db6"]),
        ("x" * 30, ["x" * 13, "x" * 13, "xxxx"]),
        ("名" * 8, ["名" * 6, "名" * 2]),
        ("a" * 60 + "-the-end", ["a" * 13, "a" * 12 + "…", "aaaaa-the-end"]),
    ],
)
def test_long_names_are_broken_at_their_seams_and_keep_their_end(name: str, lines: list[str]) -> None:
    assert wrapped(name, 13, 3) == lines
