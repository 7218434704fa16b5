import sys

import pytest

from gar_env.errors import DuplicateNameError, UnknownNameError
from gar_env.registry import Registry


def test_an_unknown_name_is_answered_with_the_closest_and_all_known():
    registry = Registry("reward signal")
    for name in ("gar", "nslr", "validation_gar"):
        registry.register(name)(object())
    with pytest.raises(UnknownNameError) as caught:
        registry["valdation_gar"]
    assert str(caught.value) == (
        "No reward signal is called 'valdation_gar'. Did you mean 'validation_gar'?\nKnown: gar, nslr, validation_gar."
    )


def test_a_name_is_taken_once():
    registry = Registry("network")
    first = registry.register("a")(object())
    registry.register("a")(first)
    with pytest.raises(DuplicateNameError, match="A network called 'a' is registered already"):
        registry.register("a")(object())


def test_a_module_in_the_name_is_imported_first(tmp_path, monkeypatch):
    (tmp_path / "third_party_signals.py").write_text(
        "from gar_env.rewards import *\n"
        "@register_reward('constant')\n"
        "class Constant(RewardSignal):\n"
        "    needs = Need.NEXT_LOSS\n"
        "    def __call__(self, evidence):\n"
        "        return evidence.next_loss.new_ones(evidence.n)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import gymnasium

    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, num_steps=2, reward="third_party_signals:constant")
    env.reset(seed=0)
    assert env.step([0, 1, 2, 3])[1].tolist() == [1, 1, 1, 1]
    del sys.modules["third_party_signals"]


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(UnknownNameError, match="names the module 'not_installed', which cannot be imported"):
        Registry("network")["not_installed:net"]
