"""A policy of thousands of rules takes little memory."""

import gc
import tracemalloc
from pathlib import Path

from nsbroker.daemon.policy.frozen_sets import frozen
from nsbroker.daemon.policy.rules import Loader


def test_a_set_is_the_same_as_its_items_and_empty_ones_are_one_object() -> None:
    assert frozen("abca") == frozenset("abc")
    assert frozen(()) is frozen([]) is frozen("")


def test_a_rule_of_a_large_policy_takes_less_than_four_kilobytes(tmp_path: Path) -> None:
    rule = '[[allow]]\nname = "rule-{0}"\nwho = "user:{0}"\ntargets = "name:web-{0}-*"\nnamespaces = ["net", "uts"]\n'
    (tmp_path / "policy.toml").write_text("".join(rule.format(number) for number in range(2000)))
    loader = Loader(tmp_path / "policy.toml")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        _, policy = loader.load()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(policy.rules) == 2000
    assert (after - before) / 2000 < 4096
