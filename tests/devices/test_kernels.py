"""Fused kernels against the plain torch operations they replace."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numba import get_num_threads, set_num_threads
from torch import Tensor

from neurosim.devices import Pcm, quantise
from neurosim.devices.kernels import pitch, quantise_rows, read_tile
from neurosim.random import Draws, key_words, stream

COLUMNS = (1, 3, 10, 16, 63, 64, 65, 130, 512)
KEYS = tuple(np.uint32(word) for word in key_words(2, "w", "noise"))
CHIP = 17


def some(*shape: int, name: str = "y") -> Tensor:
    """Normals that a test may call its data."""
    return stream(9, 0, name, "test").normal(shape)


def noise(vectors: int, columns: int, first: int) -> Tensor:
    """Vector v, column c is element v·pitch + c of the stream: the rule, restated."""
    width = pitch(columns)
    return stream(2, CHIP, "w", "noise").normal((vectors, width), first * width)[:, :columns]


class Case:
    """Arguments of one read of columns left … right of a wider product."""

    def __init__(self, vectors: int, columns: int, left: int = 0, wider: int = 0) -> None:
        self.left, self.right = left, left + columns
        width = left + columns + wider
        self.y = some(vectors, width)
        self.before = some(vectors, width, name="before")
        self.scale, self.bias = some(width, name="scale"), some(width, name="bias")

    def fused(self, add: bool, adc: bool, noisy: bool, first: int = 0, sigma: float = 0.3) -> Tensor:
        out = self.before.clone()
        read_tile(  # type: ignore[call-arg]  # numba counts the keys of *KEYS as none
            self.y.numpy(), out.numpy(), self.left, self.right, np.float32(sigma), np.float32(127 / 2.5),
            np.float32(127), self.scale.numpy(), self.bias.numpy(), first, np.uint32(CHIP), *KEYS,
            pitch(self.right - self.left), add, adc, noisy,
        )  # fmt: skip
        return out

    def plain(self, add: bool, adc: bool, noisy: bool, first: int = 0, sigma: float = 0.3) -> Tensor:
        part = slice(self.left, self.right)
        t = self.y[:, part].double()
        if noisy:
            t = t + sigma * noise(len(t), self.right - self.left, first).double()
        if adc:
            t = (t.float() * float(np.float32(127 / 2.5))).round().clamp(-127, 127).double()
        t = t * self.scale[part].double()
        out = self.before.double()
        out[:, part] = out[:, part] + t if add else t + self.bias[part].double()
        return out

    def off(self, adc: bool, **flags: bool | int | float) -> Tensor:
        """Where the two differ by more than rounding, in ADC codes (or at all without an ADC)."""
        difference = self.fused(adc=adc, **flags) - self.plain(adc=adc, **flags)  # type: ignore[arg-type]
        close = difference.abs() <= 2e-6 * (1 + self.before.abs() + self.scale.abs() * (127 if adc else 8))
        return torch.where(close, 0.0, difference / self.scale)


@pytest.mark.parametrize("add,adc,noisy", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize("columns", COLUMNS)
def test_read_of_a_tile_equals_its_definition(columns: int, add: bool, adc: bool, noisy: bool) -> None:
    off = Case(300, columns).off(adc, add=add, noisy=noisy)
    if adc and noisy:
        # y + sigma·n is rounded once or twice: a value within some 1e-5 steps of a tie may round the other
        # way. 300·512 values with a chance of 2e-5 each: at most 20 of them, each by one code
        assert int((off != 0).sum()) <= 20
        assert float(off.abs().max()) <= 1 + 1e-3
    else:
        assert not off.any()


@pytest.mark.parametrize("add,adc,noisy", list(itertools.product((False, True), repeat=3)))
@pytest.mark.parametrize(
    "left,columns,wider", [(0, 5, 7), (3, 10, 0), (64, 64, 64), (7, 65, 1), (130, 130, 2)]
)
def test_read_of_some_columns_leaves_the_others_alone(
    left: int, columns: int, wider: int, add: bool, adc: bool, noisy: bool
) -> None:
    case = Case(70, columns, left, wider)
    out = case.fused(add, adc, noisy)
    assert torch.equal(out[:, :left], case.before[:, :left])
    assert torch.equal(out[:, left + columns :], case.before[:, left + columns :])
    assert int((case.off(adc, add=add, noisy=noisy) != 0).sum()) <= (5 if adc and noisy else 0)


@pytest.mark.parametrize("first", [0, 1, 5, 63, 64, 1000, 2**33 + 3])
@pytest.mark.parametrize("columns", COLUMNS)
def test_noise_is_indexed_by_vector(columns: int, first: int) -> None:
    assert not Case(90, columns).off(False, add=False, noisy=True, first=first).any()


@pytest.mark.parametrize("columns", COLUMNS)
def test_pieces_of_a_read_equal_the_whole(columns: int) -> None:
    whole = Case(101, columns)
    expected = whole.fused(False, True, True)
    for cut in (1, 37, 64, 100):
        for part, first in ((slice(0, cut), 0), (slice(cut, None), cut)):
            piece = Case(1, columns)
            piece.y, piece.before = whole.y[part], whole.before[part]
            piece.scale, piece.bias = whole.scale, whole.bias
            assert torch.equal(piece.fused(False, True, True, first), expected[part])


def test_a_read_of_nothing_is_nothing() -> None:
    for columns in (10, 64):
        case = Case(0, columns)
        assert case.fused(True, True, True).shape == (0, columns)


def test_converter_rounds_ties_to_even_and_saturates() -> None:
    case = Case(1, 6)
    step = 2.5 / 127
    case.y = torch.tensor([[0.5, 1.5, -2.5, 1e9, -1e9, 127.4]]) * step
    case.scale, case.bias = torch.ones(6), torch.zeros(6)
    assert case.fused(False, True, False).tolist() == [[0.0, 2.0, -2.0, 127.0, -127.0, 127.0]]


@pytest.mark.parametrize("bits", [2, 4, 8, 12, 16])
@pytest.mark.parametrize("full_scale", [1.0, 0.37, 123.456])
def test_quantising_rows_equals_the_quantiser(bits: int, full_scale: float) -> None:
    x = some(200, 333) * full_scale
    levels = 2 ** (bits - 1) - 1
    for view in (x, x.T, x[:, 5:60], x[::3]):
        out = torch.zeros_like(view)
        inverse, step = np.float32(levels / full_scale), np.float32(full_scale / levels)
        quantise_rows(view.numpy(), out.numpy(), inverse, np.float32(levels), step)
        assert torch.equal(out, quantise(view, full_scale, bits))


# ---- phase-change memory ----

CHIPS = (0, 1, 17, 4_000_000_000)
DAY = 86400.0
PCMS = {
    "published": Pcm(),
    "other range": Pcm(g_min_siemens=1e-6, g_max_siemens=40e-6),
    "no clips": Pcm(
        drift_mean_min=0.0, drift_mean_max=10.0, drift_std_min=0.0, drift_std_max=10.0, read_max=10.0
    ),
    "scaled": Pcm(programming_scale=2.0, drift_scale=0.5, read_scale=3.0),
    "another fit": Pcm(
        read_power=0.3, read_coefficient=0.02, drift_t0_s=1.0, programming_siemens=(1e-6, 0, 0)
    ),
}


def legs(device: Pcm, count: int) -> Tensor:
    """Targets over the whole range, and the two ends."""
    x = torch.cat([torch.linspace(0, 1, count - 2), torch.tensor([0.0, 1.0])])
    return device.g_min_siemens + (device.g_max_siemens - device.g_min_siemens) * x


def draws(chips: tuple[int, ...] = CHIPS) -> Draws:
    return Draws(3, chips, "w+")


@pytest.mark.parametrize("name", PCMS)
@pytest.mark.parametrize("count", [2, 63, 64, 65, 10_007])
def test_fused_pcm_equals_the_formulas(name: str, count: int) -> None:
    device = PCMS[name]
    target = legs(device, count)
    fused = device.program(target, draws())
    plain = device.program(target.double(), draws())  # float64 is never fused
    for key in ("g_siemens", "drift_exponent"):
        # float32 rounding: normals to 1e-6 of |n| <= 6.8, then a few operations
        bound = 2e-6 * float(plain[key].abs().max())
        assert float((fused[key] - plain[key]).abs().max()) <= bound
    state = {key: value.double() for key, value in fused.items()}
    for time_s in (1e-3, 25.0, DAY, 3.15e8):
        expected = device.age(state, time_s, draws())
        got = device.age(fused, time_s, draws())
        # ν·ln(t/t0) reaches 10 and more: its rounding is 1e-6 of the conductance
        assert bool(((got - expected).abs() <= (5e-6 * expected.abs()).clamp(min=2e-12)).all())


def test_without_gradient_and_with_it_pcm_is_the_same_chip() -> None:
    target = legs(Pcm(), 1000)
    fused = Pcm().program(target, draws())
    torch_path = Pcm().program(target.clone().requires_grad_(), draws())
    assert torch_path["g_siemens"].requires_grad
    for key in fused:
        assert not fused[key].requires_grad
        difference = (fused[key] - torch_path[key].detach()).abs()
        assert float(difference.max()) <= 2e-6 * float(fused[key].max())  # float32 rounding


def test_fused_pcm_keeps_the_shape_and_any_layout() -> None:
    target = legs(Pcm(), 24).reshape(4, 6)
    state = Pcm().program(target.T, draws())
    dense = Pcm().program(target.T.contiguous(), draws())
    assert state["g_siemens"].shape == (4, 6, 4)
    assert torch.equal(state["g_siemens"], dense["g_siemens"])
    strided = {key: value.transpose(1, 2).contiguous().transpose(1, 2) for key, value in state.items()}
    assert torch.equal(Pcm().age(strided, DAY, draws()), Pcm().age(state, DAY, draws()))


# ---- threads ----


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads(), get_num_threads()
    yield
    torch.set_num_threads(before[0])
    set_num_threads(before[1])


@pytest.mark.skipif("__import__('numba').config.NUMBA_NUM_THREADS < 2", reason="one thread is all there is")
def test_number_of_threads_does_not_matter(threads: None) -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)  # the kernels of devices follow torch
        set_num_threads(count)
        found = [
            Case(5000, columns).fused(add, True, True, 3) for columns in COLUMNS for add in (True, False)
        ]
        x = some(1000, 33)
        out = torch.empty_like(x)
        quantise_rows(x.numpy(), out.numpy(), np.float32(50), np.float32(127), np.float32(0.02))
        state = Pcm().program(legs(Pcm(), 50_001), draws())
        results.append([*found, out, *state.values(), Pcm().age(state, DAY, draws())])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
