"""Which networks are exported, and how they are labelled."""

from nsbroker.cli.exporter.targets import Labels, Target, find_targets, keep_silent
from nsbroker.model.description import NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType
from nsbroker.protocol.messages import ContainerDescription


def container(name: str, network: int | None, pid: int = 1, engine: str = "docker", pod: str | None = None) -> ContainerDescription:
    return ContainerDescription(engine, f"{name}-id", [name], "running", pid, [], {}, network, pod)


def network(inode: int, *references: Reference) -> NamespaceDescription:
    return NamespaceDescription(NamespaceType.NET, inode, 4, 1, references=list(references))


def mount(path: str, pid: int | None = None) -> Reference:
    return Reference(ReferenceKind.MOUNT, pid, None, path)


def test_a_container_is_asked_for_by_its_id_and_labelled_by_its_name() -> None:
    assert find_targets([container("web", 7)], [network(7)]) == {
        7: Target("docker:web-id", Labels("docker", "web"), [Labels("docker", "web")])
    }


def test_a_pod_is_one_network_with_the_labels_of_its_first_container() -> None:
    containers = [
        container("shop/web/c1", 7, 20, "cri", "shop/web"),
        container("shop/web", 7, 10, "cri", "shop/web"),
        container("own", 8, 5, "cri", "shop/own"),
    ]
    found = find_targets(containers, [])
    assert found[7].labels == Labels("cri", "shop/web", "web", "shop")
    assert found[7].text == "cri:shop/web-id"
    assert [user.container for user in found[7].users] == ["shop/web", "shop/web/c1"]
    assert found[8].labels.pod == "own"


def test_a_container_whose_network_may_not_be_opened_is_no_target() -> None:
    assert find_targets([container("web", None)], []) == {}


def test_networks_with_names_are_targets_unless_they_are_those_of_containers() -> None:
    named = [
        network(1, mount("/run/netns/blue"), mount("/run/netns/azure")),
        network(2, Reference(ReferenceKind.DESCRIPTOR, path="name:held")),
        network(3, mount("/run/netns/cni-1")),
        network(4, mount("/run/netns/seen-by-a-process", 77), mount("/somewhere/else")),
        network(5),
    ]
    found = find_targets([container("web", 3)], named)
    assert {inode: target.text for inode, target in found.items()} == {1: "name:azure", 2: "name:held", 3: "docker:web-id"}
    assert found[1] == Target("name:azure", Labels("name", "azure"))


def test_two_containers_of_the_same_name_have_different_labels() -> None:
    first, second = container("web", 1), container("web", 2)
    second.id = "other-id"
    assert [target.labels.container for target in find_targets([first, second], []).values()] == ["web", "web-id"]


def test_labels_contain_nothing_that_could_control_a_terminal_or_cannot_be_encoded() -> None:
    found = find_targets([container("a\n\x1b[31m\ud800", 1, pod="x\x07/y\n")], [network(2, mount("/run/netns/b\udcff"))])
    texts = [text for target in found.values() for text in target.labels]
    assert all(text.isprintable() and text.encode() is not None for text in texts)


def test_what_a_silent_engine_had_stays() -> None:
    before = find_targets([container("a", 1), container("b", 2), container("c", 3, engine="podman")], [])
    now = find_targets([container("new", 4)], [network(1, mount("/run/netns/cni-1")), network(3)])
    assert now[1].labels.engine == "name"
    assert keep_silent(now, before, {"docker"}) == {1, 2}
    assert now.keys() == {1, 2, 4}
    assert (now[1], now[2]) == (before[1], before[2])
