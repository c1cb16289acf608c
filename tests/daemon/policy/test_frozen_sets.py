"""A policy of thousands of rules takes little memory."""

import gc
import tracemalloc
from pathlib import Path

from nsbroker.daemon.policy.frozen_sets import frozen
from nsbroker.daemon.policy.rules import Loader


def test_a_set_is_the_same_as_its_items_and_empty_ones_are_one_object() -> None:
    assert frozen("abca") == frozenset("abc")
    assert frozen(()) is frozen([]) is frozen("")


def test_a_rule_of_a_large_policy_takes_less_than_four_kilobytes_and_gives_them_back(tmp_path: Path) -> None:
    rule = '[[allow]]\nname = "rule-{0}"\nwho = "user:{0}"\ntargets = "name:web-{0}-*"\nnamespaces = ["net", "uts"]\n'
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
    assert (large - small) / 2000 < 4096
    assert small_again - small < (large - small) / 10
