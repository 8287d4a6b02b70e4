"""Products in bfloat16 while training; everything that is kept stays float32."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.errors import UsageError
from neurosim.training import train

from . import worker

bfloat16 = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="no bfloat16 here: autocast was NOT trained"
)


class Watched(nn.Sequential):
    """Notes the type of every output, and whether it was training."""

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        self.seen.add((self.training, y.dtype))  # type: ignore[operator]
        return y


def watched() -> Watched:
    net = Watched(*worker.network())
    net.seen = set()  # type: ignore[assignment]
    return net


@bfloat16
@pytest.mark.parametrize("method", worker.METHODS)
def test_every_method_trains_and_keeps_float32(method: str, tmp_path: Path) -> None:
    net = watched()
    options: dict[str, Any] = {**worker.OPTIONS, "epochs": 12, "lr": 0.02, "method": worker.METHODS[method]}
    result = train(net, worker.loaders(), autocast="bfloat16", out=tmp_path, **options)
    assert net.seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32, torch.int64}
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert tomllib.loads((tmp_path / "training.toml").read_text())["autocast"] == "bfloat16"


@bfloat16
@pytest.mark.parametrize("method", worker.METHODS)
def test_resume_gives_the_same_bits(method: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {**worker.OPTIONS, "method": worker.METHODS[method], "autocast": "bfloat16"}
    train(worker.network(), worker.loaders(), out=tmp_path / "whole", **options)
    left = [8]

    def stop(progress: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(worker.network(), worker.loaders(), out=tmp_path / "cut", progress=stop, **options)
    train(worker.network(), worker.loaders(), out=tmp_path / "cut", resume=True, **options)
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown type of autocast 'float8'"):
        train(worker.network(), worker.loaders(), epochs=1, autocast="float8")
    with pytest.raises(UsageError, match="autocast='bfloat16' is for training in plain numbers"):
        train(
            worker.network(), worker.loaders(), epochs=1, autocast="bfloat16", hardware=ns.hardware("ideal")
        )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(UsageError, match="this processor has no bfloat16 products"):
        train(worker.network(), worker.loaders(), epochs=1, autocast="bfloat16", device="cpu")


def test_off_leaves_no_trace(tmp_path: Path) -> None:
    train(worker.network(), worker.loaders(), out=tmp_path, **worker.OPTIONS)
    assert "autocast" not in tomllib.loads((tmp_path / "training.toml").read_text())
