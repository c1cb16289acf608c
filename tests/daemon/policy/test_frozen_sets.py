"""A policy of thousands of rules takes little memory."""

import gc
import tracemalloc
from pathlib import Path

import pytest

from nsbroker.daemon.policy.frozen_sets import frozen
from nsbroker.daemon.policy.rules import Loader


def test_a_set_is_the_same_as_its_items_and_empty_ones_are_one_object() -> None:
    assert frozen("abca") == frozenset("abc")
    assert frozen(()) is frozen([]) is frozen("")


@pytest.mark.parametrize(("who", "most"), [("user:{0}", 2560), ("user:1001", 1280)], ids=["for others", "for the same user"])
def test_a_rule_of_a_large_policy_takes_little_memory_and_gives_it_back(tmp_path: Path, who: str, most: int) -> None:
    rule = f'[[allow]]\nname = "rule-{{0}}"\nwho = "{who}"\ntargets = "name:web-{{0}}-*"\nnamespaces = ["net", "uts"]\n'
    file = tmp_path / "policy.toml"
    loader = Loader(file)
    taken = []
    tracemalloc.start()
    try:
        for count in (1, 2000, 1):
            file.write_text("".join(map(rule.format, range(count))))
            _, policy = loader.load()
            assert len(policy.rules) == count
            gc.collect()
            taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    small, large, small_again = taken
    assert (large - small) / 2000 < most
    assert small_again - small < (large - small) / 10
