"""A transistor below threshold, and the circuits made of it: closed forms that hold for numbers and tensors.

Currents are in ampere, voltages in volt, against the bulk; a p-channel device is its mirror image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from neurosim.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    Value = TypeVar("Value", float, Tensor)
else:
    Value = TypeVar("Value")

BOLTZMANN_OVER_CHARGE = 8.617333262e-5
"""k/q in V/K (CODATA 2018)."""
REFERENCE_KELVIN = 300.0
"""Temperature at which currents and spreads are stated."""
KAPPA_N, KAPPA_P = 0.75, 0.66
"""Gate coupling of n- and p-channel devices in simulators of DYNAP-SE2 (rockpool 3, default_layout)."""


def thermal_voltage(kelvin: float) -> float:
    """U_T = k·T/q in volt.

    Raises:
        UsageError: a temperature that is not positive and finite.

    >>> [round(1000 * thermal_voltage(273.15 + celsius), 2) for celsius in (-40, 25, 85)]
    [20.09, 25.69, 30.86]
    """
    if not 0 < kelvin < math.inf:
        raise UsageError(f"expected a temperature of more than 0 kelvin; got kelvin={kelvin!r}")
    return BOLTZMANN_OVER_CHARGE * kelvin


def current_ampere(
    v_gate: Tensor,
    v_source: Tensor,
    v_drain: Tensor,
    *,
    i0_ampere: float | Tensor,
    aspect: float = 1.0,
    kappa: float = KAPPA_N,
    kelvin: float = REFERENCE_KELVIN,
) -> Tensor:
    r"""The current from drain to source of an n-channel transistor in weak inversion::

        I = I0·(W/L)·e^(κ·V_g/U_T)·(e^(−V_s/U_T) − e^(−V_d/U_T))

    Differentiable and batched: all arguments broadcast.  It saturates for V_ds of more than about 4·U_T,
    where the second term is below 2 %.  Holds while I is well below 2·(μ·C_ox/κ)·(W/L)·U_T²; Early effect,
    leakage of junctions and body effect of κ are not modelled.  Source: E. Chicca et al., Neuromorphic
    electronic circuits for building autonomous cognitive systems, Proc. IEEE 102 (2014),
    doi:10.1109/JPROC.2014.2313954.

    Args:
        v_gate, v_source, v_drain: against the bulk.
        i0_ampere: I0, at this temperature; .5 to 1 pA in published simulators.
        aspect: W/L.
        kappa: κ, the gate's coupling to the channel, 1/n.
        kelvin: temperature of the die.

    >>> import torch
    >>> v = torch.tensor([0.3, 0.3 + 0.0258520 / 0.75], dtype=torch.float64)  # U_T/kappa apart
    >>> low, high = current_ampere(v, 0 * v, 0 * v + 0.5, i0_ampere=5e-13)
    >>> round(float(high / low), 3)
    2.718
    """
    u_t = thermal_voltage(kelvin)
    # one exponent a term: apart, exp(κV_g/U_T) overflows float32 where the product is a nanoampere
    forward = ((kappa * v_gate - v_source) / u_t).exp()
    backward = ((kappa * v_gate - v_drain) / u_t).exp()
    return i0_ampere * aspect * (forward - backward)


def saturation(v_ds_volt: float, kelvin: float = REFERENCE_KELVIN) -> float:
    """1 − e^(−V_ds/U_T): the part of its saturated current that a device carries.

    >>> round(saturation(4 * thermal_voltage(300.0)), 3)
    0.982
    """
    return -math.expm1(-v_ds_volt / thermal_voltage(kelvin))


def i0_at(
    i0_ampere: float,
    kelvin: float,
    *,
    threshold_volt: float = 0.5,
    kappa: float = KAPPA_N,
    threshold_slope_volt_per_kelvin: float = -1e-3,
    mobility_exponent: float = -1.5,
    reference_kelvin: float = REFERENCE_KELVIN,
) -> float:
    r"""I0 at another temperature: that of a gate held at the source's voltage::

        I0(T) = I0·(T/T_ref)^(2 + m)·exp(κ·V_T/U_T,ref − κ·V_T(T)/U_T)      V_T(T) = V_T + α·(T − T_ref)

    m is the exponent of mobility and α the slope of the threshold; −1.5 and −1 mV/K are textbook values, not
    those of a process.  A gate held at a voltage thus gives 5 to 8 % more current a kelvin; a gate that a
    current mirror holds gives the same current.

    >>> round(i0_at(5e-13, 301.0) / 5e-13 - 1, 3)
    0.082
    """
    u_t, u_ref = thermal_voltage(kelvin), thermal_voltage(reference_kelvin)
    threshold = threshold_volt + threshold_slope_volt_per_kelvin * (kelvin - reference_kelvin)
    power = (kelvin / reference_kelvin) ** (2.0 + mobility_exponent)
    return i0_ampere * power * math.exp(kappa * (threshold_volt / u_ref - threshold / u_t))


def time_constant_s(
    capacitance_farad: Value,
    i_tau_ampere: Value,
    kappa: float = KAPPA_P,
    kelvin: float = REFERENCE_KELVIN,
) -> Value:
    """τ = C·U_T/(κ·I_τ) of a differential-pair integrator: a synapse or a membrane.

    At a fixed bias current τ ∝ T: −22 % at −40 °C, +19 % at 85 °C, against 300 K.  Source: C. Bartolozzi
    and G. Indiveri, Synaptic dynamics in analog VLSI, Neural Computation 19 (2007),
    doi:10.1162/neco.2007.19.10.2581.

    >>> f"{time_constant_s(3e-12, 5.3e-12, kappa=0.705):.4f}"  # C_mem and I_tau as of DYNAP-SE2
    '0.0208'
    """
    return capacitance_farad * thermal_voltage(kelvin) / (kappa * i_tau_ampere)


def tau_current_ampere(
    capacitance_farad: Value, tau_s: Value, kappa: float = KAPPA_P, kelvin: float = REFERENCE_KELVIN
) -> Value:
    """I_τ = C·U_T/(κ·τ), the bias current of a time constant.

    >>> f"{tau_current_ampere(3e-12, 20e-3, kappa=0.705) * 1e12:.1f} pA"
    '5.5 pA'
    """
    return capacitance_farad * thermal_voltage(kelvin) / (kappa * tau_s)


def charge_time_s(capacitance_farad: Value, volt: Value, i_bias_ampere: Value) -> Value:
    """t = C·V/I, in which a bias current moves a capacitor by V: refractory period, pulse.

    >>> f"{1000 * charge_time_s(1.5e-12, 0.7, 1.05e-9):.2f} ms"
    '1.00 ms'
    """
    return capacitance_farad * volt / i_bias_ampere


def dpi_gain(i_gain_ampere: Value, i_tau_ampere: Value) -> Value:
    """I_th/I_τ, the static gain of a differential-pair integrator.

    >>> dpi_gain(40e-12, 10e-12)
    4.0
    """
    return i_gain_ampere / i_tau_ampere


def dpi_jump_ampere(
    i_weight_ampere: float, i_gain_ampere: float, i_tau_ampere: float, pulse_s: float, tau_s: float
) -> float:
    """What a spike adds to the current of a synapse, (I_th·I_w/I_τ)·(1 − e^(−t_pulse/τ)).

    Exact where the synapse carries far more than I_th; doi:10.1162/neco.2007.19.10.2581.

    >>> f"{dpi_jump_ampere(1e-9, 5e-10, 5e-12, 10e-6, 10e-3):.3g}"
    '1e-10'
    """
    return -math.expm1(-pulse_s / tau_s) * i_gain_ampere * i_weight_ampere / i_tau_ampere
