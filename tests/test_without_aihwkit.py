"""What is said where aihwkit is missing."""

from __future__ import annotations

import sys

import pytest

from neurosim.devices import hardware
from neurosim.devices.aihwkit_noise import _noise_model
from neurosim.errors import RunError


def test_a_missing_aihwkit_is_one_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "aihwkit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aihwkit", None)
    _noise_model.cache_clear()
    with pytest.raises(RunError, match=r"aihwkit cannot be imported .*pip install 'neurosim\[aihwkit\]'"):
        hardware("aihwkit:PCMLikeNoiseModel", g_max=25)
