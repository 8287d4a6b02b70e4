"""The layer over all steps: kernels, torch loops, hand-written gradients, chips, all against a loop of
steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosim.errors import UsageError
from neurosim.feedback import Feedback
from neurosim.models.spiking import (
    AdEx,
    Alif,
    Filter,
    LeakyIntegrator,
    Lif,
    LinearNeuron,
    Neuron,
    Neurons,
    Recurrent,
    Surrogate,
    integrate,
    leak,
    loops,
    operators,
    plain_loops,
    record,
    step,
)
from neurosim.models.spiking.constants import rest

from .cases import BATCH, NEURONS, SIZE, STEPS, Case, close, each_delay, each_neuron, several


@each_neuron
@each_delay
def test_hand_written_gradients_are_those_of_the_loop(name: str, delayed: bool) -> None:
    case = Case(name, torch.float64, delayed)
    close(case.integrated("auto"), case.stepped(), 1e-11)


@each_neuron
@each_delay
def test_kernels_agree_with_torch(name: str, delayed: bool) -> None:
    case, wide = Case(name, torch.float32, delayed), Case(name, torch.float64, delayed)
    # float32 spikes are those of float64 unless a potential comes within rounding of its threshold: here none
    # does
    traces = record(wide.u, wide.k, wide.w, wide.delays)
    assert float((traces.potentials - traces.thresholds).abs().min()) > 1e-6
    close(case.integrated("auto"), wide.stepped(), 1e-5)
    close(case.integrated("torch"), wide.stepped(), 1e-5)


@pytest.mark.parametrize("kind", ["triangle", "fast-sigmoid", "arctan", "exponential"])
def test_every_surrogate_has_its_gradient(kind: str) -> None:
    surrogate = Surrogate(kind, 0.7, 1.3)
    for name in ("lif", "lif subtract", "alif"):
        case, wide = Case(name, torch.float32), Case(name, torch.float64)
        for one in (case, wide):
            one.k = replace(one.k, surrogate=surrogate)
        close(case.integrated("auto"), wide.stepped(), 1e-5)
        close(wide.integrated("auto"), wide.stepped(), 1e-11)


def test_without_blas_the_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("lif", torch.float32)
    expected = case.integrated("auto")
    monkeypatch.setattr(operators, "blas_address", lambda: 0)
    close(case.integrated("auto"), expected, 1e-6)


@each_neuron
def test_smooth_parts_pass_gradcheck(name: str) -> None:
    """No neuron reaches its threshold: the potential is a smooth function, whose sum is the output."""
    neuron = replace(NEURONS[name], surrogate=Surrogate("triangle", 1.0, 2.0))
    u = torch.rand(2, 7, SIZE, dtype=torch.float64, requires_grad=True)

    def potentials(u: Tensor, values: Tensor) -> Tensor:
        k = neuron.constants(SIZE)
        state = rest(replace(k, values=values), u[:, 0])
        found = []
        for one in u.unbind(1):
            state = step(replace(k, values=values), one, state)
            found.append(state.v)
        return torch.stack(found, 1)

    quiet = replace(neuron, v_threshold=1e9, surrogate=Surrogate("triangle", 1.0, 2.0))  # 0 so far below
    values = quiet.constants(SIZE).values.double().detach().requires_grad_()
    assert torch.autograd.gradcheck(potentials, (u, values))
    a = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(leak, (x, a))


def test_events_are_the_dense_product() -> None:
    """Numbers whose sums are exact in float32 whatever their order: equal to the bit."""
    source = torch.Generator().manual_seed(0)
    u = torch.randint(-4, 40, (8, 60, 37), generator=source) / 16
    w = torch.randint(-32, 33, (37, 37), generator=source) / 16
    k = Lif(tau_mem_s=1.0, v_threshold=2.0, reset="subtract").constants(37)
    values = k.values.clone()
    values[0], values[1] = 0.5, 1.0  # v is a sum of few binary digits
    exact = replace(k, values=values)
    u, w = (4 * u).round() / 4, (4 * w).round() / 4
    found, expected = (integrate(u, exact, w, engine=engine) for engine in ("auto", "torch"))
    assert 0.05 < float(found.mean()) < 0.95
    assert torch.equal(found[:, :12], expected[:, :12])


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("name", ["lif subtract", "lif subtract detached"])
def test_plain_neurons_are_those_of_the_general_loop(
    name: str, recurrent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some steps at once, a number that does not divide all of them; chips that differ; a gain of 0."""
    monkeypatch.setitem(plain_loops._WINDOW, "cpu", 3 * BATCH * SIZE * 7)
    cases = [Case(name, torch.float64, seed=seed) for seed in range(3)]
    u, w, values = (
        torch.stack(x).detach()
        for x in ([c.u for c in cases], [c.w for c in cases], [c.k.values for c in cases])
    )
    values[0, 1, 2] = 0.0
    u, w = u.flatten(0, 1).requires_grad_(), w.requires_grad_()
    k = replace(cases[0].k, values=values)
    grad = torch.randn(u.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for plain in (True, False):
        monkeypatch.setattr(loops, "is_plain", lambda flags, plain=plain: plain)
        y = integrate(u, k, w if recurrent else None)
        with torch.no_grad():
            assert torch.equal(integrate(u, k, w if recurrent else None), y), "kept or not"
        leaves = (u, w) if recurrent else (u,)
        found.append([y.detach(), *torch.autograd.grad(y, leaves, grad)])
    close(found[0], found[1], 1e-11)


@each_neuron
@each_delay
def test_steps_by_a_kernel_are_those_by_torch(name: str, delayed: bool) -> None:
    case = Case(name, torch.float32)
    layer = Neurons(NEURONS[name], SIZE, delay_s=3e-3 if delayed else None)
    feedback = Feedback(lambda spikes: spikes @ case.w.t())  # nobody knows that it is a matrix
    expected = layer(case.u, feedback).detach()
    assert 0.02 < float(expected.mean()) < 0.7
    with torch.no_grad():
        assert torch.equal(layer(case.u, feedback), expected)
        assert torch.equal(layer.record(case.u, feedback).spikes, expected)


def test_leak_kernels_agree_with_torch() -> None:
    x = torch.randn(4, 50, 5, requires_grad=True)
    a = torch.rand(2, 5, requires_grad=True)
    grad = torch.randn(4, 50, 5)
    found = {}
    for engine in ("auto", "torch"):
        y = leak(x, a, engine=engine)  # type: ignore[arg-type]
        found[engine] = [y, *torch.autograd.grad(y, (x, a), grad)]
    for one, other in zip(found["auto"], found["torch"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# ---- chips
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_chips_together_are_chips_apart(engine: Any) -> None:
    u, k, w = several()
    together = integrate(u.flatten(0, 1), k, w, engine=engine)
    grad = torch.randn_like(together)
    found = torch.autograd.grad(together, (u, w, k.values), grad)
    for c in range(3):
        alone = integrate(u[c], replace(k, values=k.values[c]), w[c], engine=engine)
        assert torch.equal(alone, together.unflatten(0, (3, BATCH))[c])
        each = torch.autograd.grad(alone, (u, w, k.values), grad.unflatten(0, (3, BATCH))[c])
        for one, other in zip(each, found, strict=True):
            torch.testing.assert_close(one[c], other[c], rtol=1e-5, atol=1e-5)


def test_vmap_runs_chips_at_once() -> None:
    u, k, w = several()
    expected = integrate(u.flatten(0, 1), k, w).unflatten(0, (3, BATCH))
    found = torch.vmap(lambda a, b, c: integrate(a, replace(k, values=b), c))(u, k.values, w)
    assert torch.equal(found, expected)
    shared = torch.vmap(lambda b: integrate(u[0], replace(k, values=b), w[0]))(k.values)
    assert torch.equal(shared[0], expected[0])


# ---- bits
# ---------------------------------------------------------------------------------------------------


def test_a_sample_has_the_same_bits_alone_and_with_any_threads() -> None:
    torch.manual_seed(0)
    layer = Recurrent(7, 33, Alif())
    x = torch.randn(19, 50, 7)
    with torch.no_grad():
        currents = layer.input(x)
        whole = layer.neurons(currents, layer.feedback)
        assert whole.any()
        assert torch.equal(layer.neurons(currents[3:4], layer.feedback), whole[3:4])
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            u = currents.clone().requires_grad_()
            layer.neurons(u, layer.feedback).sum().backward()
            assert layer.recurrent.weight.grad is not None
            assert u.grad is not None
            found.append((u.grad, layer.recurrent.weight.grad.clone()))
            layer.recurrent.weight.grad = None
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_half_precision_is_computed_in_float32() -> None:
    k = Lif(v_threshold=0.4).constants(3)
    u = torch.rand(2, 30, 3).half()
    found = integrate(u, k)
    assert found.dtype == torch.float16
    assert torch.equal(found.float(), integrate(u.float(), k))


def test_no_steps_and_no_samples() -> None:
    k = Lif().constants(3)
    for shape in ((2, 0, 3), (0, 4, 3)):
        u = torch.zeros(shape, requires_grad=True)
        for engine in ("auto", "torch"):
            y = integrate(u, k, torch.zeros(3, 3), engine=engine)  # type: ignore[arg-type]
            assert y.shape == shape
            assert torch.autograd.grad(y.sum(), u)[0].shape == shape


# ---- modules
# ------------------------------------------------------------------------------------------------


def test_the_module_is_the_layer_of_its_parameters() -> None:
    layer = Neurons(NEURONS["alif"], SIZE, trainable=["tau_ada_s", "beta_ada"])
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["tau_ada_s", "beta_ada"]
    u = 1.2 * torch.rand(3, STEPS, SIZE)
    y = layer(u)
    assert torch.equal(y, integrate(u, NEURONS["alif"].constants(SIZE)))
    y.sum().backward()
    assert layer.tau_ada_s.grad is not None
    assert layer.tau_ada_s.grad.any()
    assert layer.tau_mem_s.grad is None


def test_self_connections_do_not_count_and_a_hook_changes_nothing() -> None:
    torch.manual_seed(1)
    layer = Recurrent(3, SIZE, NEURONS["lif"], delay_s=2e-3)
    x = 2 * torch.rand(4, STEPS, 3)
    with torch.no_grad():
        layer.input.weight.abs_()
        expected = layer(x)
        assert expected.any()
        assert torch.equal(layer.record(x).spikes, expected)
        layer.recurrent.register_forward_hook(lambda *_: None)  # now a step at a time, through the module
        assert torch.equal(layer(x), expected)
        del layer.recurrent._forward_hooks[next(iter(layer.recurrent._forward_hooks))]
        layer.recurrent.weight.fill_diagonal_(9.0)
        assert torch.equal(layer(x), expected)
    layer(x).sum().backward()
    assert layer.recurrent.weight.grad is not None
    assert not layer.recurrent.weight.grad.diagonal().any()


def test_functional_call_uses_the_weights_it_is_given() -> None:
    torch.manual_seed(2)
    layer = Recurrent(3, SIZE, NEURONS["lif"])
    x = 2 * torch.rand(4, STEPS, 3)
    others = {name: 1.3 * p.detach() for name, p in layer.named_parameters() if p.requires_grad}
    found = torch.func.functional_call(layer, others, (x,))
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name in others:
                p.copy_(others[name])
    assert torch.equal(found, layer(x))


@pytest.mark.parametrize("neuron", [NEURONS["lif subtract"], NEURONS["alif"], AdEx()], ids=type)
@pytest.mark.parametrize("trainable", [(), ("tau_mem_s",)], ids=["", "constants too"])
def test_torch_func_takes_the_gradients_of_autograd(neuron: Neuron, trainable: tuple[str, ...]) -> None:
    torch.manual_seed(2)
    names = trainable if isinstance(neuron, LinearNeuron) else ()
    layer = Recurrent(3, SIZE, neuron, trainable=names)
    readout = Filter(LeakyIntegrator(), SIZE)
    scale = 1.0 if isinstance(neuron, LinearNeuron) else 2e-9
    x = scale * 2 * torch.rand(4, STEPS, 3)
    weights = {name: p.detach() for name, p in layer.named_parameters() if p.requires_grad}
    factors = torch.arange(1.0, SIZE + 1)

    def loss(given: dict[str, Tensor], x: Tensor) -> Tensor:
        spikes = torch.func.functional_call(layer, given, (x,))
        return (readout(spikes) * factors).sum()

    def of_one(given: dict[str, Tensor], sample: Tensor) -> Tensor:
        return loss(given, sample[None])

    loss(dict(layer.named_parameters()), x).backward()
    by_sample = torch.vmap(torch.func.grad(of_one), in_dims=(None, 0))(weights, x)
    whole = torch.func.grad(lambda given: torch.vmap(lambda sample: of_one(given, sample))(x).sum())(weights)
    for name, got in torch.func.grad(loss)(weights, x).items():
        expected = layer.get_parameter(name).grad
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(by_sample[name].sum(0), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(whole[name], expected, rtol=1e-4, atol=1e-4)


def test_a_second_derivative_is_refused() -> None:
    k = Lif(v_threshold=0.4).constants(3)

    def slope(u: Tensor) -> Tensor:
        return torch.func.grad(lambda v: integrate(v, k).sum())(u).sum()

    with pytest.raises(UsageError, match="a surrogate has no second one"):
        torch.func.grad(slope)(torch.rand(2, 30, 3))
