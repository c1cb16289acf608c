"""The chart of who shares what: columns, their order, and bars, made from descriptions of namespaces."""

import pytest

from nsbroker.cli.drawing.chart import LANES, Bar, Chart, chart_of
from nsbroker.model.description import NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType
from tests.cli.imagined import OWN, POD, Imagined, T, busy_host


def labels(chart: Chart) -> list[str]:
    return [column.label for column in chart.columns]


def bar_of(chart: Chart, ns: NamespaceDescription) -> Bar:
    return next(bar for bar in chart.bars if (bar.ns.type, bar.ns.inode) == (ns.type, ns.inode))


def sharers(chart: Chart, ns: NamespaceDescription) -> set[str]:
    return {chart.columns[place].label for place in bar_of(chart, ns).columns}


def test_the_host_is_the_first_column_and_lists_units_in_its_namespaces() -> None:
    host = Imagined()
    host.unit("ssh.service")
    host.unit("cron.service")
    private = host.unit("udevd.service", (T.MNT,))
    chart = chart_of(host.namespaces)
    assert labels(chart) == ["host", "unit:udevd.service"]
    assert chart.columns[0].also == ["unit:cron.service", "unit:init.scope", "unit:ssh.service"]
    assert sharers(chart, private[T.NET]) == {"host", "unit:udevd.service"}
    assert sharers(chart, private[T.MNT]) == {"unit:udevd.service"}


def test_without_process_1_the_host_is_the_initial_namespaces() -> None:
    namespaces = [NamespaceDescription(T.UTS, 4026531838, 4, 70), NamespaceDescription(T.NET, 4026531833, 4, 70)]
    assert labels(chart_of(namespaces)) == ["host"]


def test_every_namespace_is_one_bar() -> None:
    host = busy_host(30)
    chart = chart_of(host.namespaces)
    assert sorted((bar.ns.type, bar.ns.inode) for bar in chart.bars) == sorted((one.type, one.inode) for one in host.namespaces)


def test_columns_that_share_are_side_by_side_and_their_bars_have_one_colour() -> None:
    host = Imagined()
    # Add containers of the two pods in turn, so that neither names nor numbers put them side by side.
    first, second = host.pod("a/p"), host.pod("b/p")
    for name in ("z", "m"):
        host.container(f"docker:{name}-first", OWN, {kind: first[kind] for kind in POD})
        host.container(f"docker:{name}-second", OWN, {kind: second[kind] for kind in POD})
    chart = chart_of(host.namespaces)
    for sandbox in (first, second):
        bars = [bar_of(chart, sandbox[kind]) for kind in POD]
        assert {len(bar.runs) for bar in bars} == {1}
        assert {len(bar.columns) for bar in bars} == {3}
        assert len({bar.colour for bar in bars}) == 1
        assert bar_of(chart, sandbox[T.PID]).colour is None
    assert bar_of(chart, first[T.NET]).colour != bar_of(chart, second[T.NET]).colour


def test_a_bar_that_skips_columns_has_runs_and_a_line_of_its_own() -> None:
    host = Imagined()
    first = host.container("docker:1", (T.NET, T.IPC))
    second = host.container("docker:2", (T.UTS, T.CGROUP), {T.NET: first[T.NET]})
    third = host.container("docker:3", (T.PID,), {T.IPC: first[T.IPC], T.UTS: second[T.UTS], T.CGROUP: second[T.CGROUP]})
    host.container("docker:4", (), {T.NET: second[T.NET], T.PID: third[T.PID]})
    chart = chart_of(host.namespaces)
    for bar in chart.bars:
        assert [place for first, last in bar.runs for place in range(first, last + 1)] == list(bar.columns)
    apart = [bar for bar in chart.bars if len(bar.runs) > 1]
    assert apart
    for bar in apart:
        assert 0 <= bar.lane < LANES
        for other in apart:
            if other is not bar and other.row == bar.row:
                assert other.lane != bar.lane or other.columns[0] > bar.columns[-1] or bar.columns[0] > other.columns[-1]


def test_the_unit_of_a_container_is_listed_in_its_column() -> None:
    host = Imagined()
    web = host.container("docker:web", (T.NET, *OWN))
    host.unit("docker-4f1c.scope", (), web)
    chart = chart_of(host.namespaces)
    assert labels(chart) == ["host", "docker:web"]
    assert chart.columns[1].also == ["unit:docker-4f1c.scope"]


def test_a_container_that_its_runtime_knows_too_is_one_column() -> None:
    host = Imagined()
    for name in ("web", "db"):
        host.container(f"podman:{name}", (), host.container(f"crun:{name}-7f3a", (T.NET, *OWN)))
    host.container("crun:alone", (T.NET, *OWN))
    chart = chart_of(host.namespaces)
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
    assert sharers(chart_of(host.namespaces), web[T.NET]) == {"docker:web", "unit:exporter.service"}


def test_a_unit_that_started_containers_stays_in_its_own_namespaces() -> None:
    host = Imagined()
    host.unit("session-1.scope")
    for name in ("web", "db"):
        for ns in host.container(f"crun:{name}", (T.NET, *OWN)).values():
            assert ns.units is not None
            if ns.units == []:
                ns.units.append("session-1.scope")
    chart = chart_of(host.namespaces)
    assert set(labels(chart)) == {"host", "crun:web", "crun:db"}
    assert "unit:session-1.scope" in chart.columns[0].also


def test_a_second_namespace_of_a_type_in_a_container_has_a_second_column_beside_it() -> None:
    host = Imagined()
    host.container("incus:vm", (T.NET, *OWN))
    host.container("docker:other", (T.NET, *OWN))
    inner = host.make(T.MNT)
    inner.containers = ["incus:vm"]
    chart = chart_of(host.namespaces)
    assert labels(chart).count("incus:vm") == 2
    place = bar_of(chart, inner).columns[0]
    assert "incus:vm" in (chart.columns[place - 1].label, chart.columns[min(place + 1, len(chart.columns) - 1)].label)


@pytest.mark.parametrize(
    ("reference", "processes", "label"),
    [
        (Reference(ReferenceKind.MOUNT, path="/run/netns/blue"), 0, "bound file /run/netns/blue"),
        (Reference(ReferenceKind.MOUNT, path="/run/netns/blue"), 2, "bound file /run/netns/blue"),
        (Reference(ReferenceKind.MOUNT, pid=7, path="/x"), 0, "bound file /x"),
        (Reference(ReferenceKind.MOUNT, pid=7, path="/x"), 1, "process 101 sleep"),
        (Reference(ReferenceKind.DESCRIPTOR, path="name:lab"), 0, "held as name:lab"),
        (Reference(ReferenceKind.DESCRIPTOR, pid=900, number=5), 0, "process 900 open files"),
        (Reference(ReferenceKind.SOCKET, pid=900, number=5), 0, "process 900 sockets"),
        (Reference(ReferenceKind.THREAD, pid=900, number=901), 0, "process 900 threads"),
        (Reference(ReferenceKind.CHILDREN, pid=900), 0, "process 900 future children"),
        (Reference(ReferenceKind.NAMESPACE, path="net:[7]"), 0, "parent or owner of net:[7]"),
        (None, 0, "used by others net:[4026531849]"),
    ],
)  # fmt: skip
def test_what_no_container_or_unit_uses_is_named_after_what_keeps_it_alive(
    reference: Reference | None, processes: int, label: str
) -> None:
    host = Imagined()
    host.make(T.NET, "/bin/sleep 1", [reference] if reference else [], processes=processes)
    assert labels(chart_of(host.namespaces))[1:] == [label]


def test_two_namespaces_of_a_type_that_one_process_keeps_alive_are_two_columns() -> None:
    host = Imagined()
    for number in (5, 6):
        host.make(T.NET, references=[Reference(ReferenceKind.DESCRIPTOR, pid=900, number=number)], processes=0)
    host.make(T.UTS, references=[Reference(ReferenceKind.DESCRIPTOR, pid=900, number=7)], processes=0)
    assert labels(chart_of(host.namespaces)) == ["host"] + ["process 900 open files"] * 2


def test_types_choose_rows_and_leave_out_columns_without_any() -> None:
    host = Imagined()
    host.unit("udevd.service", (T.MNT,))
    host.container("docker:web", (T.NET,))
    host.make(T.UTS)
    chart = chart_of(host.namespaces, [T.NET])
    assert chart.rows == (T.NET,)
    assert labels(chart) == ["host", "docker:web"]
    assert "unit:udevd.service" in chart.columns[0].also
    assert {bar.ns.type for bar in chart.bars} == {T.NET}


def test_nothing_at_all() -> None:
    assert chart_of([]) == Chart((), chart_of([]).rows, ())
    assert set(chart_of([]).rows) == set(NamespaceType)


def test_names_with_numbers_sort_by_value() -> None:
    host = Imagined()
    for number in (10, 9, 1):
        host.container(f"docker:web-{number}", (T.NET,))
    assert labels(chart_of(host.namespaces)) == ["host", "docker:web-1", "docker:web-9", "docker:web-10"]


def test_two_thousand_namespaces_take_no_time() -> None:
    chart = chart_of(busy_host(500).namespaces)
    assert len(chart.columns) > 450
    assert all(len(bar.runs) == 1 for bar in chart.bars if bar.colour is not None)
