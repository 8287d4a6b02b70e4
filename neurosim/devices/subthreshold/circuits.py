"""What mismatched currents do to the parameters of a neuron, and what heat does to both."""

from __future__ import annotations

from collections.abc import Mapping

from neurosim.devices.hardware import Hardware
from neurosim.devices.spread import Spread
from neurosim.devices.subthreshold.pelgrom import Transistor, cv_of, log_std_of
from neurosim.devices.subthreshold.physics import REFERENCE_KELVIN, thermal_voltage

DPI_NEURON: Mapping[str, Mapping[str, int]] = {
    "tau_mem_s": {"i_tau_mem": -1},
    "gain": {"i_gain_mem": 1, "i_tau_mem": -1},
    "tau_syn_s": {"i_tau_syn": -1},
    "tau_ada_s": {"i_tau_ada": -1},
    "tau_ahp_s": {"i_tau_ada": -1},
    "threshold": {"i_threshold": 1},
    "refractory_s": {"i_refractory": -1},
    "pulse_s": {"i_pulse": -1},
    "i_tau_ampere": {"i_tau_mem": 1},
    "i_gain_ampere": {"i_gain_mem": 1},
    "i_weight_ampere": {"i_weight": 1},
    "i_spike_ampere": {"i_threshold": 1},
    "i_reset_ampere": {"i_reset": 1},
    "i_ahp_jump_ampere": {"i_ahp": 1},
    "i_feedback_ampere": {"i_feedback": 1},
    "i_feedback_threshold_ampere": {"i_feedback_threshold": 1},
    "i_feedback_norm_ampere": {"i_feedback_norm": 1},
}
r"""Parameter of a neuron → bias current → its exponent::

    τ_mem = C·U_T/(κ·I_τ)      gain = I_th/I_τ      threshold = I_spkthr      t_ref = C·V/I_ref

and τ_syn, τ_ada, τ_ahp like τ_mem; neurons and synapses whose parameters *are* currents have those.  Time
constant and gain of the membrane hang on one I_τ: both rise where it is weak, and with equal devices their
logarithms correlate by 1/√2.  Capacitors are taken as exact.  After E. Chicca et al. 2014,
doi:10.1109/JPROC.2014.2313954.
"""

_PROPORTIONAL_TO_U_T = ("tau_mem_s", "tau_syn_s", "tau_ada_s", "tau_ahp_s", "u_t_volt")
_U_T = "*u_t_volt"


def neuron_spreads(
    transistors: Mapping[str, Transistor | float],
    *,
    kelvin: float = REFERENCE_KELVIN,
    die_std: float = 0.0,
    gradient_std: float = 0.0,
    circuit: Mapping[str, Mapping[str, int]] = DPI_NEURON,
    origin: str = "",
) -> dict[str, Spread]:
    """``parameters`` of a hardware description for neurons whose currents come from these transistors.

    Patterns are ``"*tau_mem_s"`` and so on, and optional: a network need not have every parameter.

    Args:
        transistors: bias current → the transistor that sets it, or the CV of the current at 300 K.
            A parameter is left out where none of its currents is named; a current that is not named is exact.
        kelvin: of the die.
        die_std, gradient_std: as of :class:`neurosim.devices.Spread`.
        circuit: parameter → bias current → exponent, ±1.
        origin: for people; without it, the transistors in words.

    Returns:
        Pattern → spread.

    >>> pfet = Transistor("gf180-pfet-3v3", 1e-6, 1e-6)
    >>> found = neuron_spreads({"i_tau_mem": pfet, "i_gain_mem": pfet})
    >>> list(found), f"{found['*gain'].local_std:.3f}"
    (['*tau_mem_s', '*gain', '*i_tau_ampere', '*i_gain_ampere'], '0.177')
    >>> print(found["*gain"].in_words())
    lognormal, standard deviation 17.7 % of the value (i_gain_mem 12.5 %, 1/i_tau_mem 12.5 %);
    gf180-pfet-3v3, 1 x 1 µm, σ(V_T) 4.87 mV
    """
    found = {}
    for parameter, exponents in circuit.items():
        used = {name: sign for name, sign in exponents.items() if name in transistors}
        if not used:
            continue
        made = [transistors[name] for name in used]
        words = dict.fromkeys(one.in_words() for one in made if isinstance(one, Transistor))
        found[f"*{parameter}"] = Spread(
            distribution="lognormal",
            transistors={name: sign * _log_std(transistors[name], kelvin) for name, sign in used.items()},
            die_std=die_std,
            gradient_std=gradient_std,
            factor=_heat(parameter, REFERENCE_KELVIN, kelvin),
            optional=True,
            origin=origin or "; ".join(words),
        )
    if kelvin != REFERENCE_KELVIN:
        found[_U_T] = _warm_volts(REFERENCE_KELVIN, kelvin)
    return found


def heated(hardware: Hardware, kelvin: float, from_kelvin: float = REFERENCE_KELVIN) -> Hardware:
    """The same chips with their dies at another temperature, bias currents held.

    Time constants go with U_T, as their ``factor``; standard deviations of ln I with 1/U_T, those of
    weights on ``subthreshold`` devices included.  Every chip keeps its draws: it is the same chip, warmer.
    A lognormal of a plain ``relative_std`` counts as one current; other distributions stay.  What leaks,
    and what a fixed gate voltage does (:func:`~neurosim.devices.subthreshold.physics.i0_at`), is not
    modelled.

    Args:
        hardware: at ``from_kelvin``.
        kelvin: the temperature wanted.
        from_kelvin: where its spreads hold.

    >>> from neurosim.devices import hardware
    >>> hot = heated(hardware("dynapse-se2"), 358.15)
    >>> tau = hot.parameters["*tau_mem_s"]
    >>> f"{tau.factor:.3f}, CV {tau.local_std:.3f}; weights at {hot.device.kelvin} K"
    '1.194, CV 0.167; weights at 358.15 K'
    """
    ratio = thermal_voltage(from_kelvin) / thermal_voltage(kelvin)
    parameters = {
        pattern: _warmer(pattern, spread, ratio, from_kelvin, kelvin)
        for pattern, spread in hardware.parameters.items()
    }
    if parameters and _U_T not in parameters and kelvin != from_kelvin:
        parameters[_U_T] = _warm_volts(from_kelvin, kelvin)
    changes: dict[str, object] = {"parameters": parameters} if parameters else {}
    if hardware.device.kind == "subthreshold":
        changes["device.kelvin"] = kelvin
    return hardware.with_all(changes)


def _warm_volts(from_kelvin: float, kelvin: float) -> Spread:
    """U_T of neurons that have it as a parameter."""
    return Spread(factor=kelvin / from_kelvin, optional=True, origin=f"{kelvin:g} K")


def _warmer(pattern: str, spread: Spread, ratio: float, from_kelvin: float, kelvin: float) -> Spread:
    heat = spread.factor * _heat(pattern.rpartition("*")[2].rpartition(".")[2], from_kelvin, kelvin)
    if spread.distribution != "lognormal":
        return spread.model_copy(update={"factor": heat})
    parts: dict[str, object] = {
        "transistors": {name: s * ratio for name, s in spread.transistors.items()},
        "relative_std": _narrower(spread.relative_std, ratio),
        "gradient_std": _narrower(spread.gradient_std, ratio),
        "factor": heat,
    }
    return Spread(**{**spread.model_dump(), **parts})


def _narrower(cv: float, ratio: float) -> float:
    return cv_of(log_std_of(cv) * ratio)


def _heat(parameter: str, from_kelvin: float, kelvin: float) -> float:
    return kelvin / from_kelvin if parameter in _PROPORTIONAL_TO_U_T else 1.0


def _log_std(made: Transistor | float, kelvin: float) -> float:
    if isinstance(made, Transistor):
        return made.log_std(kelvin)
    return log_std_of(made) * thermal_voltage(REFERENCE_KELVIN) / thermal_voltage(kelvin)
