"""Every mapping, by being listed: what planes should hold makes the weight again, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neurosim.devices import Array, Device, Ideal, Pcm, hardware
from neurosim.devices.mapping import to_fractions
from neurosim.devices.mappings import (
    MAPPINGS,
    BitSliced,
    Mapping,
    SignificancePairs,
    bit_sliced,
    mapping_of,
    significance_pairs,
)
from neurosim.errors import UsageError

DEVICES: list[Device] = [Ideal(), Pcm(), Ideal(g_min_siemens=4e-6, g_max_siemens=20e-6)]
VARIANTS: list[dict[str, Any]] = [
    *({"mapping": name} for name in MAPPINGS),
    {"mapping": "bit-sliced", "slices": 8, "radix": 2},
    {"mapping": "bit-sliced", "slices": 1, "radix": 255},
    {"mapping": "bit-sliced", "slices": 3, "radix": 10},
    {"mapping": "significance-pairs", "pairs": 4, "significance": 3.0},
    {"mapping": "significance-pairs", "pairs": 3, "significance": 8.0, "pair_programming": "closed-loop"},
]
every = pytest.mark.parametrize("fields", VARIANTS, ids=lambda fields: "-".join(map(str, fields.values())))
devices = pytest.mark.parametrize("device", DEVICES, ids=repr)


def x_of(shape: tuple[int, ...] = (6, 50)) -> Tensor:
    x = torch.linspace(-1.0, 1.0, 300, dtype=torch.float64).reshape(shape)
    x[0, :3] = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    return x


def planes_of(mapping: Mapping, x: Tensor, device: Device) -> list[Tensor]:
    """What the planes deliver when every device holds its target."""
    found: list[Tensor] = []
    if isinstance(mapping, SignificancePairs) and mapping.closed_loop:
        for _ in mapping.analog:
            legs = mapping.targets(mapping.rest(x, found), device)
            found.append(mapping.held(legs, device))
        return found
    for fraction in mapping.fractions(x):
        found += [mapping.held(mapping.targets(fraction, device), device)] * len(mapping.analog)
    return found


def value_of(mapping: Mapping, planes: list[Tensor]) -> Tensor:
    step = len(mapping.analog)
    slices = [
        sum(a * m for a, m in zip(mapping.analog, planes[s : s + step], strict=True))
        for s in range(0, len(planes), step)
    ]
    return mapping.value(slices)  # type: ignore[arg-type]


@every
@devices
def test_exact_devices_make_the_weight_again(fields: dict[str, Any], device: Device) -> None:
    mapping, x = mapping_of(Array(**fields), device), x_of()
    expected = x
    if isinstance(mapping, BitSliced):
        steps = mapping.radix ** len(mapping.digital) - 1
        expected = (x * steps).round() / steps
    torch.testing.assert_close(value_of(mapping, planes_of(mapping, x, device)), expected, rtol=0, atol=1e-12)


@every
@devices
def test_targets_are_within_the_device_and_the_input_is_left_alone(
    fields: dict[str, Any], device: Device
) -> None:
    mapping, x = mapping_of(Array(**fields), device), x_of().float()
    before = x.clone()
    for fraction in mapping.fractions(x):
        assert fraction.dtype == torch.float32
        assert float(fraction.abs().max()) <= 1.0
        legs = mapping.targets(fraction, device)
        assert len(legs) == mapping.legs
        for leg in legs:
            assert leg.dtype == torch.float32
            assert leg.shape == x.shape
            assert float(leg.min()) >= device.g_min_siemens * (1 - 1e-6)
            assert float(leg.max()) <= device.g_max_siemens * (1 + 1e-6)
    assert torch.equal(x, before)


@every
def test_the_gradient_is_that_of_the_weight(fields: dict[str, Any]) -> None:
    mapping, x = mapping_of(Array(**fields), Ideal()), (0.9 * x_of()).requires_grad_()
    weighting = torch.linspace(-1, 2, x.numel(), dtype=torch.float64).reshape(x.shape)
    (value_of(mapping, planes_of(mapping, x, Ideal())) * weighting).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weighting, rtol=1e-9, atol=1e-9)


@every
def test_shares_and_counts(fields: dict[str, Any]) -> None:
    mapping = mapping_of(Array(**fields), Ideal())
    assert sum(mapping.analog) == pytest.approx(1.0)
    assert mapping.planes == len(mapping.digital) * len(mapping.analog)
    assert len(mapping.fractions(x_of())) == len(mapping.digital)
    assert mapping.plain == (fields["mapping"] == "differential-pair")
    with pytest.raises(dataclasses.FrozenInstanceError):
        mapping.offset = 1.0  # type: ignore[misc]


@given(
    radix=st.integers(2, 40),
    slices=st.integers(1, 4),
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20),
)
def test_digits_are_those_of_the_number_system(radix: int, slices: int, values: list[float]) -> None:
    mapping, x = bit_sliced(slices, radix), torch.tensor(values)
    codes = (x.abs() * float(radix**slices - 1)).round().int()
    for s, m in enumerate(mapping.fractions(x)):
        digits = [code // radix ** (slices - 1 - s) % radix for code in codes.tolist()]
        signed = [d if v > 0 else -d for d, v in zip(digits, values, strict=True)]
        np.testing.assert_allclose(m.numpy() * (radix - 1), signed, atol=1e-4)
    assert sum(mapping.digital) == pytest.approx(1.0)


def test_a_later_pair_undoes_what_those_before_it_missed() -> None:
    mapping, x = significance_pairs(2, 8.0, True), torch.tensor([0.5, -0.2, 0.0, 0.9])
    missed = torch.tensor([0.03, -0.02, 0.01, -0.04])
    first = mapping.rest(x, []) + missed
    second = mapping.rest(x, [first])
    a, b = mapping.analog
    reached = second.abs() < 1
    torch.testing.assert_close((a * first + b * second)[reached], x[reached])
    assert reached.tolist() == [True, True, True, False]  # 0.9 lacks more than the second pair has
    assert float(mapping.rest(torch.tensor(1.0), [])) == 1.0


# ---- clipping ----


@pytest.mark.parametrize("percentile", [1.0, 37.5, 50.0, 99.0, 99.99])
@pytest.mark.parametrize("shape", [(7, 13), (5, 1), (4, 3, 3, 3)], ids=str)
def test_full_scale_is_numpys_percentile(percentile: float, shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    flat = w.abs().reshape(shape[0], -1).double().numpy()
    for scaling, expected in (
        ("per-layer", np.percentile(flat, percentile)),
        ("per-column", np.percentile(flat, percentile, axis=1)),
    ):
        x, scale = to_fractions(w, scaling, percentile)  # type: ignore[arg-type]
        np.testing.assert_allclose(scale.flatten().numpy(), np.atleast_1d(expected), rtol=1e-5)
        inside = w.abs() <= scale
        torch.testing.assert_close((x * scale)[inside], w[inside], rtol=1e-6, atol=0)
        assert bool((x[~inside].abs() == 1).all())


def test_where_the_percentile_is_zero_the_largest_counts() -> None:
    w = torch.zeros(2, 100)
    w[0, 0], w[1, 5] = 3.0, -2.0
    assert to_fractions(w, "per-layer", 50.0)[1].item() == 3.0
    assert to_fractions(w, "per-column", 50.0)[1].flatten().tolist() == [3.0, 2.0]


# ---- descriptions ----


def test_a_description_that_uses_none_of_it_looks_as_it_did() -> None:
    text = hardware("ideal").to_toml()
    assert "slices" not in text
    assert "clip_percentile" not in text
    assert hardware("ideal").digest() == hardware("ideal", array__clip_percentile=100.0).digest()
    assert hardware("ideal").digest() != hardware("ideal", array__mapping="two-sided-pair").digest()


@every
def test_descriptions_round_trip(fields: dict[str, Any], tmp_path: Any) -> None:
    made = hardware("pcm-joshi-2020", array=fields)
    file = tmp_path / "chip.toml"
    file.write_text(made.to_toml(), encoding="utf-8")
    assert hardware(file) == made


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"array": {"slices": 8}}, "expected slices only with mapping='bit-sliced'"),
        ({"array": {"mapping": "bit-sliced", "pairs": 3}}, "pairs only with mapping='significance-pairs'"),
        ({"array": {"mapping": "bit-sliced", "slices": 13}}, r"radix\^slices of at most 2\^24"),
        ({"array": {"mapping": "unit-column", "cols": 1}}, "cols of at least 2"),
        ({"array": {"mapping": "pairs"}}, "got array.mapping='pairs'"),
        (
            {"array": {"mapping": "offset-column"}, "wires": {"model": "nonlinear"}},
            "'differential-pair' or 'two-sided-pair' with wires.model='nonlinear'",
        ),
    ],
)
def test_what_does_not_belong_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        hardware("ideal", **changes)
