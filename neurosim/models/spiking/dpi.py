"""Circuits below threshold: the differential-pair integrator (DPI) as synapse and as neuron.

State and parameters are currents of transistors in weak inversion; time constants follow from them, so that a
circuit whose currents are off has time constants that are off with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from neurosim.models.spiking.neurons import Neuron, Step, Value, described
from neurosim.models.spiking.operators import leak
from neurosim.models.spiking.surrogates import Surrogate

KT_PER_KELVIN = 8.617333262e-5  # k/q in volt per kelvin, exact in the SI of 2019


def thermal_volt(kelvin: float = 300.0) -> float:
    """U_T = kT/q.

    >>> round(1e3 * thermal_volt(298.15), 2)
    25.69
    """
    return KT_PER_KELVIN * kelvin


def tau_s(c_farad: Value, i_tau_ampere: Value, kappa: Value, u_t_volt: Value) -> Value:
    """τ = C·U_T/(κ·I_τ): the time constant of a DPI.

    >>> round(1e3 * tau_s(3e-12, 5.5e-12, 0.7, 0.0257), 1)
    20.0
    """
    return c_farad * u_t_volt / (kappa * i_tau_ampere)


@described
class DpiSynapse(Neuron):
    """A DPI synapse in its linear range::

        I ← I·e^(−dt/τ) + (I_th·I_w/I_τ)·(1 − e^(−t_pulse/τ))·u,   τ = C·U_T/(κ·I_τ)

    for u spikes in a step: a spike opens the input for t_pulse.  It has no spikes of its own; the output is I
    in units of ``i_unit_ampere``.  Source: Bartolozzi and Indiveri, Neural Computation 19 (2007),
    doi:10.1162/neco.2007.19.10.2581; Chicca et al., Proc IEEE 102 (2014), doi:10.1109/JPROC.2014.2313954, eq.
    6.

    Attributes:
        c_farad, i_tau_ampere: C, I_τ.
        i_gain_ampere, i_weight_ampere: I_th, I_w.
        pulse_s: t_pulse.
        kappa, u_t_volt: slope factor of the transistors; kT/q.
        i_unit_ampere: the current of an output of 1.

    >>> synapse = DpiSynapse()
    >>> round(1e3 * synapse.tau_s, 2)
    10.37
    """

    c_farad: Value = 25e-12
    i_tau_ampere: Value = 89e-12
    i_gain_ampere: Value = 89e-12
    i_weight_ampere: Value = 1e-9
    pulse_s: Value = 10e-6
    kappa: Value = 0.7
    u_t_volt: Value = 0.02585
    i_unit_ampere: Value = 1e-12

    above_zero: ClassVar[tuple[str, ...]] = (
        "c_farad", "i_tau_ampere", "i_gain_ampere", "kappa", "u_t_volt", "i_unit_ampere"
    )  # fmt: skip
    not_below_zero: ClassVar[tuple[str, ...]] = ("pulse_s",)

    @property
    def tau_s(self) -> Value:
        """The time constant."""
        return tau_s(self.c_farad, self.i_tau_ampere, self.kappa, self.u_t_volt)

    def initial(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)

    def stepper(self, size: int) -> Step:
        decay, jump = self._decay_and_jump()
        return lambda u, state: state * decay + jump * u

    def _decay_and_jump(self) -> tuple[Value, Value]:
        tau = self.tau_s
        charge = self.i_gain_ampere * self.i_weight_ampere / self.i_tau_ampere / self.i_unit_ampere
        return _exp(-self.dt_s / tau), charge * (1 - _exp(-self.pulse_s / tau))

    def filtered(self, spikes: Tensor) -> Tensor:
        """Output currents at all steps, (samples, steps, N), of spikes of that shape."""
        decay, jump = self._decay_and_jump()
        a = torch.as_tensor(decay, dtype=spikes.dtype, device=spikes.device).expand(spikes.shape[-1])
        return leak(spikes * jump, a)


def _exp(value: Any) -> Any:
    return torch.exp(value) if isinstance(value, Tensor) else math.exp(value)


@dataclass(frozen=True)
class DpiState:
    """ln(I_mem/I_0), the current of adaptation in ampere, spikes and steps left of the refractory time."""

    log_i: Tensor
    i_ahp: Tensor
    spike: Tensor
    left: Tensor


@described
class DpiNeuron(Neuron):
    """The adaptive exponential neuron of DPIs::

        τ(1 + I_th/I) dI/dt + I(1 + I_ahp/I_τ) = (I_th/I_τ)(I_in − I_ahp − I_τ) + f(I)
        f(I) = (I_a/I_τ)(I + I_th),   I_a = I_ag/(1 + e^(−(I − I_ath)/I_anorm)),   τ = C·U_T/(κ·I_τ)
        where I > I_spkthr: spike, I ← I_reset, I_ahp ← I_ahp + I_jump;   I_ahp decays with τ_ahp

    integrated for x = ln(I/I_0), dx/dt = (…)/(τ(I + I_th)), by Euler's rule: a current stays positive
    whatever the step.  I does not fall below the dark current I_0.  Inputs are in units of ``i_unit_ampere``.
     While I « I_th the neuron leaks with τ; without feedback and adaptation I rests where I = (I_th/I_τ)(I_in
     − I_τ).  Source:
    Chicca et al., Proc IEEE 102 (2014), doi:10.1109/JPROC.2014.2313954; feedback begins *above*
    I_ath here, as a threshold does (simulators differ in that sign).

    Attributes:
        c_farad, kappa, u_t_volt: of the membrane and its transistors.
        i_tau_ampere, i_gain_ampere: I_τ, I_th.
        i_spike_ampere, i_reset_ampere, i_dark_ampere: I_spkthr, I_reset, I_0.
        i_feedback_ampere, i_feedback_threshold_ampere, i_feedback_norm_ampere: I_ag, I_ath, I_anorm.
        tau_ahp_s, i_ahp_jump_ampere: of adaptation.
        refractory_s: I stays at the reset for so long after a spike.
        i_unit_ampere: the current of an input of 1.

    >>> cell = DpiNeuron()
    >>> round(1e3 * cell.tau_s, 1)
    20.0
    """

    surrogate: Surrogate = Surrogate("fast-sigmoid", 1.0, 1.0, relative=False)
    c_farad: Value = 3e-12
    kappa: Value = 0.7
    u_t_volt: Value = 0.02585
    i_tau_ampere: Value = 5.54e-12
    i_gain_ampere: Value = 5.54e-12
    i_spike_ampere: Value = 200e-12
    i_reset_ampere: Value = 0.65e-12
    i_dark_ampere: Value = 0.5e-12
    i_feedback_ampere: Value = 0.0
    i_feedback_threshold_ampere: Value = 50e-12
    i_feedback_norm_ampere: Value = 10e-12
    tau_ahp_s: Value = 0.1
    i_ahp_jump_ampere: Value = 0.0
    refractory_s: Value = 1e-3
    i_unit_ampere: Value = 1e-12

    above_zero: ClassVar[tuple[str, ...]] = (
        "c_farad", "kappa", "u_t_volt", "i_tau_ampere", "i_gain_ampere", "i_spike_ampere", "i_reset_ampere",
        "i_dark_ampere", "i_feedback_norm_ampere", "tau_ahp_s",
    )  # fmt: skip
    not_below_zero: ClassVar[tuple[str, ...]] = ("refractory_s",)

    @property
    def tau_s(self) -> Value:
        """The membrane's time constant."""
        return tau_s(self.c_farad, self.i_tau_ampere, self.kappa, self.u_t_volt)

    def initial(self, like: Tensor) -> DpiState:
        zeros = torch.zeros_like(like)
        return DpiState(zeros, zeros, zeros, zeros)

    def stepper(self, size: int) -> Step:
        return partial(_step, self)

    def seen(self, u: Tensor, state: DpiState) -> tuple[Tensor, Tensor, Tensor]:
        """The membrane's current I, which its potential is here, I_spkthr where it spikes; I_in − I_ahp; and
        I_spkthr, in ampere."""
        top = self.i_spike_ampere + torch.zeros_like(state.log_i)
        membrane = self.i_dark_ampere * torch.exp(state.log_i)
        return torch.where(state.spike > 0, top, membrane), self.i_unit_ampere * u - state.i_ahp, top


def _step(cell: DpiNeuron, u: Tensor, state: DpiState) -> DpiState:
    """One step of Euler's rule for ln I, from the state after the reset."""
    i = cell.i_dark_ampere * torch.exp(state.log_i)
    gain = cell.i_gain_ampere / cell.i_tau_ampere
    steep = (i - cell.i_feedback_threshold_ampere) / cell.i_feedback_norm_ampere
    feedback = cell.i_feedback_ampere * torch.sigmoid(steep) / cell.i_tau_ampere * (i + cell.i_gain_ampere)
    into = gain * (cell.i_unit_ampere * u - state.i_ahp - cell.i_tau_ampere)
    leaving = i * (1 + state.i_ahp / cell.i_tau_ampere)
    slope = (into + feedback - leaving) / (cell.tau_s * (i + cell.i_gain_ampere))
    moved = (state.log_i + cell.dt_s * slope).clamp(min=0.0)  # not below the dark current
    log_i = torch.where(state.left > 0, state.log_i, moved)
    top, bottom = (_log(one / cell.i_dark_ampere) for one in (cell.i_spike_ampere, cell.i_reset_ampere))
    spike = cell.surrogate.spike(log_i - top, torch.zeros_like(log_i))
    reset = log_i + spike * (bottom - log_i)
    i_ahp = state.i_ahp * _exp(-cell.dt_s / cell.tau_ahp_s) + spike * cell.i_ahp_jump_ampere
    steps = torch.round(cell.refractory_s / cell.dt_s + torch.zeros_like(log_i))
    left = torch.where(spike > 0, steps, (state.left - 1).clamp(min=0))
    return DpiState(reset, i_ahp, spike, left)


def _log(value: Any) -> Any:
    return torch.log(value) if isinstance(value, Tensor) else math.log(value)
