"""Neurons and synapses against formulas that are not our code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neurosim.errors import UsageError
from neurosim.models.spiking import (
    AdEx,
    Alif,
    CubaLeakyIntegrator,
    CubaLif,
    Delay,
    DpiNeuron,
    DpiSynapse,
    Filter,
    If,
    Integrator,
    LeakyIntegrator,
    Lif,
    Neuron,
    Neurons,
    Surrogate,
    record,
)


def intervals(spikes: Tensor) -> list[int]:
    """Steps between the spikes of one train."""
    return spikes.flatten().nonzero().flatten().diff().tolist()


def run(neuron: Neuron, current: float, steps: int) -> list[Any]:
    """The states of one neuron, in float64, at a constant input."""
    u = torch.full((1,), current, dtype=torch.float64)
    state, step = neuron.initial(u), neuron.stepper(1)
    found = []
    for _ in range(steps):
        state = step(u, state)
        found.append(state)
    return found


@pytest.mark.parametrize("refractory_s", [0.0, 5e-3])
@pytest.mark.parametrize("current", [1.05, 1.5, 4.0])
def test_lif_fires_at_the_rate_of_the_formula(current: float, refractory_s: float) -> None:
    """T = t_ref + τ·ln((R·I + v_leak − v_r)/(R·I + v_leak − θ)), rounded up to steps."""
    cell = Lif(
        tau_mem_s=0.02,
        resistance=0.8,
        v_leak=0.1,
        v_reset=-0.2,
        v_threshold=0.7,
        refractory_s=refractory_s,
        dt_s=1e-4,
    )
    drive = 0.8 * current + 0.1
    period = refractory_s + 0.02 * math.log((drive + 0.2) / (drive - 0.7))
    found = intervals(Neurons(cell, 1)(torch.full((1, 4000, 1), current)))
    assert found
    assert set(found) == {math.ceil(period / 1e-4)}


def test_lif_below_threshold_never_fires() -> None:
    assert float(Neurons(Lif(v_threshold=1.0), 1)(torch.full((1, 1000, 1), 0.999)).sum()) == 0


def test_if_fires_at_the_rate_of_the_formula() -> None:
    found = intervals(Neurons(If(resistance=300.0, v_threshold=1.0), 1)(torch.full((1, 400, 1), 0.1)))
    assert set(found) == {math.floor(1.0 / (300.0 * 0.1 * 1e-3)) + 1}


def test_psp_of_a_synapse_has_the_shape_of_the_formula() -> None:
    """v(t) = R·w·dt/(τ − τ_s)·(e^(−t/τ) − e^(−t/τ_s)), to the first order in dt."""
    dt, tau, tau_s = 1e-5, 20e-3, 5e-3
    cell = CubaLif(tau_mem_s=tau, tau_syn_s=tau_s, resistance=2.0, w_in=3.0, v_threshold=1e6, dt_s=dt)
    u = torch.zeros(1, 4000, 1, dtype=torch.float64)
    u[0, 0] = 1.0
    v = record(u, cell.constants(1)).potentials.flatten()
    t = dt * torch.arange(1, 4001, dtype=torch.float64)
    expected = 6.0 * dt / (tau - tau_s) * ((-t / tau).exp() - (-t / tau_s).exp())
    torch.testing.assert_close(v, expected, rtol=0, atol=2e-3 * float(expected.max()))
    peak = tau * tau_s / (tau - tau_s) * math.log(tau / tau_s)  # 9.24 ms
    assert abs(float(t[v.argmax()]) - peak) < 3 * dt
    # and a membrane alone decays from its first step
    wide = torch.tensor([tau], dtype=torch.float64)  # parameters in float64 too
    plain = record(u, Lif(tau_mem_s=wide, v_threshold=1e6, dt_s=dt).constants()).potentials.flatten()
    torch.testing.assert_close(plain, (1 - math.exp(-dt / tau)) * (-(t - dt) / tau).exp(), rtol=1e-9, atol=0)


def test_leaky_integrators_step_response() -> None:
    t = 1e-3 * torch.arange(1, 101, dtype=torch.float64)
    ones = torch.ones(1, 100, 1, dtype=torch.float64)
    li = LeakyIntegrator(tau_mem_s=0.02, resistance=2.0, v_leak=-0.5).filtered(ones).flatten()
    torch.testing.assert_close(li, -0.5 + 2.0 * (1 - (-t / 0.02).exp()), rtol=0, atol=1e-12)
    assert Integrator(resistance=5.0).filtered(ones).flatten()[-1] == pytest.approx(0.5)
    cuba = CubaLeakyIntegrator(tau_mem_s=0.02, tau_syn_s=0.01, w_in=4.0).filtered(
        torch.ones(1, 1000, 1, dtype=torch.float64)
    )
    assert float(cuba[0, -1]) == pytest.approx(4.0)


@pytest.mark.parametrize(
    "neuron", [LeakyIntegrator(v_leak=0.3), CubaLeakyIntegrator(v_leak=0.3), Integrator(resistance=9.0)]
)
def test_filters_agree_with_their_steps(neuron: Any) -> None:
    u = torch.randn(2, 30, 3, dtype=torch.float64)
    state, step, found = neuron.initial(u[:, 0]), neuron.stepper(3), []
    for one in u.unbind(1):
        state = step(one, state)
        found.append(state[1] if isinstance(state, tuple) else state)
    torch.testing.assert_close(neuron.filtered(u), torch.stack(found, 1), rtol=0, atol=1e-12)
    module = Filter(neuron, 3).double()
    torch.testing.assert_close(module(u), torch.stack(found, 1), rtol=0, atol=1e-7)


def test_alif_adapts_as_the_formula() -> None:
    """At a period of T steps b settles to (1 − ρ)/(1 − ρ^T) in the step after a spike."""
    cell = Alif(v_threshold=0.5, beta_ada=1.0, tau_ada_s=0.05)
    u = torch.full((1, 3000, 1), 1.4, dtype=torch.float64)
    r = record(u, cell.constants(1))
    spikes = r.spikes.flatten()
    periods = intervals(spikes)
    assert periods[-1] > periods[0]
    last = int(spikes.nonzero()[-2])
    rho = math.exp(-1e-3 / 0.05)
    level = float(r.thresholds.flatten()[last + 1])
    bounds = sorted(0.5 + (1 - rho) / (1 - rho**t) for t in {min(periods[-20:]), max(periods[-20:])})
    assert bounds[0] - 1e-3 < level < bounds[-1] + 1e-3


def test_the_refractory_time_of_the_paper_leaves_one_silent_step() -> None:
    assert set(intervals(Neurons(Alif(), 1)(torch.full((1, 50, 1), 50.0)))) == {2}


@pytest.mark.slow
def test_adex_rests_at_the_fixed_point() -> None:
    cell = AdEx(dt_s=1e-4)
    end = run(cell, 0.6, 30_000)[-1]
    v, w = float(end.v), float(end.w)
    assert w == pytest.approx(4e-9 * (v + 70.6e-3), rel=1e-6)
    leak = 30e-9 * (v + 70.6e-3)
    upstroke = 30e-9 * 2e-3 * math.exp((v + 50.4e-3) / 2e-3)
    assert leak - upstroke + w == pytest.approx(0.6e-9, rel=1e-6)
    assert -0.06 < v < -0.05


@pytest.mark.slow
def test_adex_fires_from_its_rheobase_on() -> None:
    """I_rh = (g_L + a)(V_T − E_L − Δ_T + Δ_T·ln(1 + a/g_L)) at a saddle-node."""
    cell = AdEx(dt_s=1e-4, a_siemens=1e-10)  # a/g_L < τ_m/τ_w: a saddle-node
    rheobase = (30e-9 + 1e-10) * (20.2e-3 - 2e-3 + 2e-3 * math.log(1 + 1e-10 / 30e-9)) / 1e-9
    below, above = (run(cell, f * rheobase, 20_000) for f in (0.99, 1.02))
    assert sum(float(s.spike) for s in below) == 0
    assert sum(float(s.spike) for s in above) > 0


def test_adex_adapts_and_holds() -> None:
    states = run(AdEx(dt_s=1e-4, refractory_s=2e-3), 1.5, 5000)
    periods = intervals(torch.stack([s.spike for s in states]))
    assert periods[-1] > 1.5 * periods[0]
    first = next(i for i, s in enumerate(states) if float(s.spike))
    assert all(float(s.v) == pytest.approx(-70.6e-3) for s in states[first : first + 20])


@pytest.mark.parametrize("i_tau", [50e-12, 200e-12])
def test_a_dpi_synapse_decays_with_c_ut_over_kappa_itau(i_tau: float) -> None:
    cell = DpiSynapse(i_tau_ampere=i_tau, pulse_s=1e-4)
    u = torch.zeros(1, 60, 1, dtype=torch.float64)
    u[0, 0] = 1.0
    y = cell.filtered(u).flatten()
    tau = 25e-12 * 0.02585 / (0.7 * i_tau)
    slope = (y[50].log() - y[10].log()) / 40e-3
    assert float(-1 / slope) == pytest.approx(tau, rel=1e-9)
    assert float(y[0]) == pytest.approx(89e-12 * 1e-9 / i_tau / 1e-12 * (1 - math.exp(-1e-4 / tau)), rel=1e-9)


def test_a_dpi_neuron_rests_where_its_currents_balance() -> None:
    """I = (I_th/I_τ)(I_in − I_τ)."""
    cell = DpiNeuron(dt_s=1e-4, i_spike_ampere=1.0, i_gain_ampere=11e-12)
    end = run(cell, 60.0, 5000)[-1]
    i = 0.5e-12 * math.exp(float(end.log_i))
    assert i == pytest.approx(11.0 / 5.54 * (60e-12 - 5.54e-12), rel=1e-6)


def test_a_dpi_neuron_leaks_with_its_time_constant() -> None:
    """Without input ln I falls by t/τ: an exact exponential, as I_∞ = −I_th then."""
    cell = DpiNeuron(dt_s=1e-5, i_spike_ampere=1.0)
    step = cell.stepper(1)
    state = cell.initial(torch.zeros(1, dtype=torch.float64))
    state = type(state)(state.log_i + 4.0, state.i_ahp, state.spike, state.left)
    for _ in range(2000):
        state = step(torch.zeros(1, dtype=torch.float64), state)
    assert 4.0 - float(state.log_i) == pytest.approx(20e-3 / float(cell.tau_s), rel=1e-9)


def test_a_dpi_neuron_fires_adapts_and_is_refractory() -> None:
    steady = intervals(torch.stack([s.spike for s in run(DpiNeuron(dt_s=1e-4), 400.0, 4000)]))
    adapting = DpiNeuron(dt_s=1e-4, i_ahp_jump_ampere=20e-12)
    slowing = intervals(torch.stack([s.spike for s in run(adapting, 400.0, 4000)]))
    assert len(set(steady)) == 1
    assert steady[0] > 10  # the refractory time alone
    assert slowing[-1] > slowing[0]


def test_smaller_steps_of_adex_and_dpi_converge() -> None:
    def first(neuron: Neuron, current: float) -> float:
        states = run(neuron, current, round(0.1 / neuron.dt_s))
        return next(i for i, s in enumerate(states) if float(s.spike)) * neuron.dt_s

    for make, current in ((AdEx, 1.0), (DpiNeuron, 300.0)):
        times = [first(make(dt_s=dt), current) for dt in (4e-4, 1e-4, 2.5e-5)]
        assert abs(times[1] - times[2]) < abs(times[0] - times[2]) < 0.1 * times[2]


def test_delays_are_whole_steps_of_their_channel() -> None:
    x = torch.randn(2, 20, 3)
    y = Delay(torch.tensor([0.0, 1e-3, 7.4e-3]), 3)(x)
    for channel, steps in enumerate((0, 1, 7)):
        assert torch.equal(y[:, steps:, channel], x[:, : 20 - steps, channel])
        assert not y[:, :steps, channel].any()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Lif(tau_mem_s=0.0), "expected tau_mem_s of Lif to be above 0; got 0.0"),
        (lambda: Lif(tau_mem_s=float("nan")), "expected tau_mem_s of Lif to be a number or a tensor"),
        (lambda: Lif(refractory_s=-1.0), "expected refractory_s of Lif to be at least 0"),
        (lambda: Lif(dt_s=0.0), "expected dt_s to be a number of seconds above 0"),
        (lambda: Lif(reset="none"), "expected reset to be 'value' or 'subtract'"),  # type: ignore[arg-type]
        (lambda: Lif(scheme="heun"), "expected scheme to be 'exact' or 'euler'"),  # type: ignore[arg-type]
        (lambda: Lif(v_threshold=0.0), "relative"),
        (lambda: Surrogate("triangel"), "did you mean 'triangle'"),
        (lambda: Surrogate("triangle", -1.0), "expected height of a surrogate to be a number above 0"),
        (lambda: Lif().constants(), "expected the number of neurons"),
        (lambda: Lif(tau_mem_s=torch.ones(3)).constants(4), "expected parameters of 4 neurons"),
        (
            lambda: Neurons(Lif(tau_mem_s=torch.ones(3)), 4),
            "expected tau_mem_s to be one number or 4 of them",
        ),
        (lambda: Neurons(Lif(), 4, trainable=["tau"]), "unknown parameter to train"),
        (lambda: Neurons(Lif(), 4)(torch.zeros(2, 3)), r"expected currents \(samples, steps, neurons\)"),
        (lambda: Neurons(Lif(), 4)(torch.zeros(2, 3, 5)), "of as many neurons"),
    ],
)
def test_wrong_use_is_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
