"""AdEx: integrate and fire with an exponential upstroke and a slow current that adapts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from neurosim.models.spiking.neurons import Neuron, Step, Value, described
from neurosim.models.spiking.surrogates import Surrogate

_LARGEST_EXPONENT = 20.0  # far above any spike: the upstroke ends at v_peak within a step anyway


@dataclass(frozen=True)
class AdExState:
    """Membrane potential in volt, adaptation current in ampere, spikes and steps left of the refractory
    time."""

    v: Tensor
    w: Tensor
    spike: Tensor
    left: Tensor


@described
class AdEx(Neuron):
    """Adaptive exponential integrate and fire::

        C dv/dt   = −g_L(v − E_L) + g_L·Δ_T·e^((v − V_T)/Δ_T) − w + I
        τ_w dw/dt = a(v − E_L) − w
        where v > v_peak: spike, v ← v_reset, w ← w + b

    by Euler's rule with steps of dt.  Inputs are in units of ``i_unit_ampere``.  At rest I = g_L(v − E_L) −
    g_L·Δ_T·e^((v − V_T)/Δ_T) + a(v − E_L); with a slow adaptation (C/g_L « τ_w) there is no rest above the
    rheobase I_rh = (g_L + a)(V_T − E_L − Δ_T + Δ_T·ln(1 + a/g_L)).  Defaults and source: Brette and Gerstner,
    J Neurophysiol 94 (2005), doi:10.1152/jn.00686.2005; rheobase: Touboul and Brette, Biol Cybern 99 (2008),
    doi:10.1007/s00422-008-0267-4.

    Attributes:
        c_farad, g_leak_siemens: C, g_L.
        v_rest_volt, v_threshold_volt, slope_volt: E_L, V_T, Δ_T.
        v_peak_volt, v_reset_volt: where the upstroke ends, and what follows.
        tau_ada_s, a_siemens, b_ampere: τ_w, a, b.
        refractory_s: v stays at the reset for so long after a spike.
        i_unit_ampere: the current of an input of 1.

    >>> cell = AdEx(dt_s=1e-4)
    >>> state = cell.initial(torch.zeros(1))
    >>> for _ in range(300):
    ...     state = cell.stepper(1)(torch.tensor([0.5]), state)  # 0.5 nA for 30 ms, below the rheobase
    >>> bool(-0.07 < state.v < -0.05)
    True
    """

    dt_s: float = 1e-4
    surrogate: Surrogate = Surrogate("fast-sigmoid", 1.0, 1.0, relative=False)
    c_farad: Value = 281e-12
    g_leak_siemens: Value = 30e-9
    v_rest_volt: Value = -70.6e-3
    v_threshold_volt: Value = -50.4e-3
    slope_volt: Value = 2e-3
    v_peak_volt: Value = 20e-3
    v_reset_volt: Value = -70.6e-3
    tau_ada_s: Value = 144e-3
    a_siemens: Value = 4e-9
    b_ampere: Value = 80.5e-12
    refractory_s: Value = 0.0
    i_unit_ampere: Value = 1e-9

    above_zero: ClassVar[tuple[str, ...]] = ("c_farad", "g_leak_siemens", "slope_volt", "tau_ada_s")
    not_below_zero: ClassVar[tuple[str, ...]] = ("refractory_s",)

    def initial(self, like: Tensor) -> AdExState:
        zeros = torch.zeros_like(like)
        return AdExState(self.v_rest_volt + zeros, zeros, zeros, zeros)

    def stepper(self, size: int) -> Step:
        return partial(_step, self)

    def seen(self, u: Tensor, state: AdExState) -> tuple[Tensor, Tensor, Tensor]:
        """v in volt, at v_peak where a spike ends the upstroke; I − w in ampere; v_peak."""
        peak = _as(self.v_peak_volt, state.v)
        return torch.where(state.spike > 0, peak, state.v), self.i_unit_ampere * u - state.w, peak


def _step(cell: AdEx, u: Tensor, state: AdExState) -> AdExState:
    """One step of Euler's rule for both equations, from the state after the reset."""
    # in units of the slope: what the surrogate sees, and what the exponential needs
    depth = (state.v - cell.v_threshold_volt) / cell.slope_volt
    upstroke = cell.g_leak_siemens * cell.slope_volt * torch.exp(depth.clamp(max=_LARGEST_EXPONENT))
    leak = cell.g_leak_siemens * (state.v - cell.v_rest_volt)
    dv = (upstroke - leak - state.w + cell.i_unit_ampere * u) * cell.dt_s / cell.c_farad
    dw = (cell.a_siemens * (state.v - cell.v_rest_volt) - state.w) * cell.dt_s / cell.tau_ada_s
    held = state.left > 0
    v = torch.where(held, state.v, state.v + dv)
    over = (v - cell.v_peak_volt) / cell.slope_volt
    spike = cell.surrogate.spike(over, torch.zeros_like(over))
    reset = v + spike * (cell.v_reset_volt - v)
    left = torch.where(
        spike > 0, torch.round(_as(cell.refractory_s, v) / cell.dt_s), (state.left - 1).clamp(min=0)
    )
    return AdExState(reset, state.w + dw + spike * cell.b_ampere, spike, left)


def _as(value: Value, like: Tensor) -> Tensor:
    return value.expand_as(like) if isinstance(value, Tensor) else torch.full_like(like, value)
