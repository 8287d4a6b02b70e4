"""The kernels for a GPU: on one where there is one, else in Triton's interpreter; and compiled for two kinds.

What the interpreter shows is what they compute, with every mask and address; not how fast they are, nor that
threads wait for each other where they must.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosim.models.spiking import CubaLif, Lif, Surrogate, integrate, leak, operators, record
from neurosim.models.spiking.constants import Constants

from .cases import NEURONS, SIZE, Case, close, each_delay, each_neuron, several

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed: pip install triton", allow_module_level=True)

from neurosim.models.spiking import gpu_kernels

pytestmark = pytest.mark.slow  # the interpreter takes a second for a layer
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sends every layer to the kernels for a GPU; which of them ran."""
    ran = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            ran.append(name)
            return getattr(gpu_kernels, name)

    monkeypatch.setattr(operators, "_compiled", lambda x, torch_only: False)
    monkeypatch.setattr(operators, "_steps", lambda x, torch_only: Counted())
    return ran


def placed(k: Constants) -> Constants:
    return replace(k, values=k.values.to(DEVICE), blocked=k.blocked.to(DEVICE))


def computed(case: Case) -> list[Tensor]:
    delays = None if case.delays is None else case.delays.to(DEVICE)
    spikes = integrate(case.u.to(DEVICE), placed(case.k), case.w.to(DEVICE), delays)
    return [one.cpu() for one in case.gradients(spikes.cpu())]


@each_neuron
@each_delay
def test_agree_with_the_loop_of_steps(name: str, delayed: bool, kernels: list[str]) -> None:
    case, wide = Case(name, torch.float32, delayed), Case(name, torch.float64, delayed)
    close(computed(case), wide.stepped(), 1e-5)
    assert kernels == ["forward", "backward"]


@pytest.mark.parametrize("kind", ["triangle", "fast-sigmoid", "arctan", "exponential"])
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_every_surrogate(kind: str, relative: bool) -> None:
    case, wide = Case("alif", torch.float32), Case("alif", torch.float64)
    for one in (case, wide):
        one.k = replace(one.k, surrogate=Surrogate(kind, 0.7, 1.3, relative))
    close(computed(case), wide.stepped(), 1e-5)


def test_several_chips_more_samples_than_a_program_and_odd_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 chips of 19 samples and 37 neurons: two programs a chip, one not full, and three chunks of weight."""
    source = torch.Generator().manual_seed(4)
    neuron = CubaLif(v_threshold=0.4, refractory_s=2e-3, w_in=2.0)
    k = neuron.constants(37)
    k = replace(k, values=k.values * (1.0 + 0.1 * torch.rand(2, *k.values.shape, generator=source)))
    u = (3.0 * torch.rand(38, 12, 37, generator=source)).to(DEVICE)
    w = torch.randn(2, 37, 37, generator=source).to(DEVICE)
    delays = torch.randint(1, 4, (2, 37), generator=source, dtype=torch.int32).to(DEVICE)
    grad = torch.randn(38, 12, 37, generator=source).to(DEVICE)
    k = placed(k)
    found = []
    for engine in (gpu_kernels, operators.loops):
        monkeypatch.setattr(operators, "_steps", lambda x, torch_only, engine=engine: engine)
        leaves = [one.clone().requires_grad_() for one in (u, w, k.values)]
        spikes = integrate(leaves[0], replace(k, values=leaves[2]), leaves[1], delays)
        found.append([spikes.detach(), *torch.autograd.grad(spikes, leaves, grad)])
    close(*found, 1e-5)


def test_what_was_kept_may_lie_in_memory_in_several_ways() -> None:
    """Forward keeps it with steps first; a copy that a vmap makes of one part of it has samples first."""
    case = Case("alif", torch.float32)
    p = operators._prepared(case.u.detach().to(DEVICE), placed(case.k), case.w.detach().to(DEVICE), None)
    values = p.values.detach()
    out = operators._rooms(p.currents, int(p.flags), True, True, time_first=True)
    gpu_kernels.forward(p.currents, p.weight, values, p.blocked, p.delays, p.flags, out)
    kept, grad = out[1:], case.grad.unsqueeze(0).to(DEVICE)
    wanted = (True, True, True)
    expected = gpu_kernels.backward(grad, p.weight, values, p.delays, p.flags, p.surrogate, kept, wanted)
    for which in range(3):
        mixed = [one.contiguous() if k == which else one for k, one in enumerate(kept)]
        assert mixed[which].stride() != kept[which].stride()
        found = gpu_kernels.backward(grad, p.weight, values, p.delays, p.flags, p.surrogate, mixed, wanted)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_chips_share_a_weight_and_inputs_may_lie_in_any_order() -> None:
    u, k, w = several()
    k, given = placed(replace(k, values=k.values.detach())), u.detach().flatten(0, 1).to(DEVICE)
    matrix = w[0].detach().to(DEVICE)
    whole = integrate(given, k, matrix)
    turned = given.movedim(1, 0).contiguous().movedim(0, 1)  # steps first in memory
    assert torch.equal(integrate(turned, k, matrix), whole)
    strided = torch.stack([given, given], dim=-1)[..., 0]  # neurons not next to each other
    assert torch.equal(integrate(strided, k, matrix), whole)
    assert torch.equal(integrate(given, k, matrix.expand(3, -1, -1).clone()), whole)


@pytest.mark.parametrize("name", ["lif", "cuba", "alif"])
def test_without_recurrence_and_without_gradients(name: str) -> None:
    case = Case(name, torch.float32)
    u, k = case.u.detach().to(DEVICE), placed(replace(case.k, values=case.k.values.detach()))
    assert torch.equal(integrate(u, k), integrate(u, k, torch.zeros(SIZE, SIZE, device=DEVICE)))
    with torch.no_grad():
        found = integrate(case.u.to(DEVICE), placed(case.k), case.w.to(DEVICE)).cpu()
    assert torch.equal(found, computed(case)[0])


def test_record_has_the_traces() -> None:
    case = Case("alif", torch.float32, delayed=True)
    assert case.delays is not None
    wide = Case("alif", torch.float64, delayed=True)
    found = record(case.u.to(DEVICE), placed(case.k), case.w.to(DEVICE), case.delays.to(DEVICE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "_steps", lambda x, torch_only: operators.loops)
        expected = record(wide.u, wide.k, wide.w, wide.delays)
    for field in ("spikes", "potentials", "inputs", "currents", "thresholds"):
        torch.testing.assert_close(
            getattr(found, field).cpu().double(), getattr(expected, field), rtol=0, atol=1e-5
        )


def test_leaks() -> None:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(4, 50, 150, generator=source).to(DEVICE)
    a = torch.rand(2, 150, generator=source).to(DEVICE)
    grad = torch.randn(4, 50, 150, generator=source).to(DEVICE)

    def found(dtype: torch.dtype) -> list[Tensor]:
        leaves = [one.to(dtype).requires_grad_() for one in (x, a)]
        y = leak(*leaves)
        return [y, *torch.autograd.grad(y, leaves, grad.to(dtype))]

    got = found(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "_steps", lambda x, torch_only: operators.loops)
        expected = found(torch.float64)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)


def test_no_steps_and_no_samples() -> None:
    k = placed(Lif().constants(3))
    for shape in ((2, 0, 3), (0, 4, 3)):
        u = torch.zeros(shape, requires_grad=True)
        y = integrate(u.to(DEVICE), k, torch.zeros(3, 3, device=DEVICE))
        assert y.shape == shape
        assert torch.autograd.grad(y.sum(), u)[0].shape == shape
        z = leak(u.to(DEVICE), torch.ones(3, device=DEVICE))
        assert z.shape == shape


def test_who_takes_what() -> None:
    """On the CPU never, whatever is installed; beyond their reach torch does it."""
    assert not gpu_kernels.takes(torch.zeros(1, 1, 1, 4))
    assert not gpu_kernels.takes(torch.zeros(1, 1, 1, 4, dtype=torch.float64, device=DEVICE))
    if DEVICE.type == "cuda":
        assert gpu_kernels.takes(torch.zeros(1, 1, 1, 4, device=DEVICE))
        assert not gpu_kernels.takes(torch.zeros(1, 1, 1, gpu_kernels.WIDEST + 1, device=DEVICE))


def test_every_neuron_is_tried() -> None:
    flags = 0
    for neuron in NEURONS.values():
        flags |= int(neuron.constants(2).flags)
    assert flags & 63 == 63 - 16  # all but the surrogate's choice, which has a test, and delays


@pytest.mark.parametrize("capability", [80, 90])
def test_compile_for_a_gpu(capability: int) -> None:
    """Down to machine code, by Triton's own assembler, in a process without the interpreter."""
    if DEVICE.type == "cuda":
        pytest.skip("compiled by every other test here")
    script = Path(__file__).with_name("compile_gpu_kernels.py")
    done = subprocess.run(
        [sys.executable, str(script), str(capability)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["forward", "backward", "forward", "backward", "leak"]
