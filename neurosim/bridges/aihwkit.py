"""To and from IBM's aihwkit: configurations of inference, and networks on its tiles.

What has no counterpart on the other side is named, never dropped in silence.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from neurosim.devices import Hardware, hardware
from neurosim.devices.aihwkit_noise import REMEDY, AihwkitNoise, ends_of, noise_model, noise_models
from neurosim.devices.pcm import Pcm
from neurosim.devices.pcm_hermes import PcmHermes
from neurosim.devices.rram_cmo import RramCmo
from neurosim.devices.rram_wan import RramWan
from neurosim.errors import RunError, UsageError

if TYPE_CHECKING:
    from torch import nn


class Imported(NamedTuple):
    """What became of a configuration.

    Attributes:
        hardware: our description.
        left_out: sentences, one for each setting that acts there and has no counterpart here.
    """

    hardware: Hardware
    left_out: tuple[str, ...]


def from_aihwkit(config: Any, name: str = "from-aihwkit") -> Imported:
    """An aihwkit inference configuration (``InferenceRPUConfig`` or its torch twin) as hardware.

    Raises:
        UsageError: it is none.
    """
    missing = [part for part in ("mapping", "forward", "noise_model") if not hasattr(config, part)]
    if missing:
        raise UsageError(
            f"expected an inference configuration of aihwkit; {type(config).__name__} has no {missing[0]}"
        )
    mapping, forward = config.mapping, config.forward
    left: list[str] = []
    changes: dict[str, Any] = {
        "name": name,
        "description": f"An inference configuration of aihwkit: {type(config.noise_model).__name__}.",
        "source.citation": "an aihwkit configuration of the user; its noise model is aihwkit's",
        "source.covers": "what aihwkit's noise model does to each device of a pair, converters, output noise",
        "array.rows": int(mapping.max_input_size) or 1_000_000,
        "array.cols": int(mapping.max_output_size) or 1_000_000,
        "array.scaling": "per-column" if mapping.weight_scaling_columnwise else "per-layer",
        "array.bias": "digital" if mapping.digital_bias else "device",
        "compensation": "none" if config.drift_compensation is None else "global",
    }
    if not forward.is_perfect:
        changes["dac.bits"] = _bits(float(forward.inp_res), "forward.inp_res", left)
        changes["adc.bits"] = _bits(float(forward.out_res), "forward.out_res", left)
        changes["array.output_noise_std"] = float(forward.out_noise)
    left += _left_out(config)
    device, said = _device(config.noise_model)
    base = hardware("ideal").model_copy(update={"device": device})
    return Imported(base.with_all(changes), (*left, *said))


def rpu_config(hw: Hardware, *, torch_tile: bool = True) -> tuple[Any, tuple[str, ...]]:
    """The configuration of aihwkit that is closest to a description, and what is left out of it.

    Args:
        hw: without patterns for layers.
        torch_tile: of its pure torch tile, which works with any torch; else of its compiled one.

    Raises:
        RunError: aihwkit cannot be imported.
        UsageError: a device that aihwkit has no noise model for.
    """
    configs = _configs()
    config = configs.TorchInferenceRPUConfig() if torch_tile else configs.InferenceRPUConfig()
    model, options, left = _counterpart(hw)
    left += _not_there(hw)
    config.mapping.max_input_size, config.mapping.max_output_size = hw.array.rows, hw.array.cols
    config.mapping.weight_scaling_omega = 1.0
    config.mapping.weight_scaling_columnwise = hw.array.scaling == "per-column"
    config.mapping.digital_bias = hw.array.bias == "digital"
    forward = config.forward
    forward.is_perfect = hw.dac.bits is None and hw.adc.bits is None and not hw.array.output_noise_std
    forward.inp_res, forward.out_res = _resolution(hw.dac.bits), _resolution(hw.adc.bits)
    forward.out_noise, forward.w_noise, forward.inp_noise = hw.array.output_noise_std, 0.0, 0.0
    config.noise_model = noise_model(model, options)
    from aihwkit.inference import GlobalDriftCompensation

    config.drift_compensation = None if hw.compensation == "none" else GlobalDriftCompensation()
    return config, tuple(left)


def export_to_aihwkit(
    model: nn.Module, hw: Hardware, *, torch_tile: bool = True
) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a network on aihwkit's tiles, with its weights, and what of the hardware is left out.

    Raises:
        RunError: aihwkit cannot be imported, or cannot convert the network.
        UsageError: as :func:`rpu_config`.
    """
    import copy

    config, left = rpu_config(hw, torch_tile=torch_tile)
    from aihwkit.nn.conversion import convert_to_analog

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert_to_analog(copy.deepcopy(model), config), left
    except Exception as error:  # whatever its tiles say
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"aihwkit cannot put this network on its tiles: {reason}") from error


def check_device(hw: Hardware) -> None:
    """UsageError if aihwkit has no noise model for the device; needs no aihwkit to say so."""
    _counterpart(hw)


def script_of(hw: Hardware, run: str) -> str:
    """A Python script that rebuilds a run's network on aihwkit's tiles, for where aihwkit is installed."""
    return f'''"""The network of the run {run!r} on aihwkit's tiles; made by neurosim export."""

from pathlib import Path

import neurosim as ns
from neurosim.bridges.aihwkit import export_to_aihwkit
from neurosim.runs import open_run

here = Path(__file__).parent
hardware = ns.hardware(here / "hardware.toml")
analog, left_out = export_to_aihwkit(open_run(here / "run").model(), hardware)
for sentence in left_out:
    print("left out:", sentence)
print(analog)
'''


def _configs() -> Any:
    noise_models()  # says what is missing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from aihwkit.simulator import configs
    except Exception as error:
        raise RunError(f"aihwkit's configurations cannot be imported ({error}): {REMEDY}") from error
    return configs


def _bits(resolution: float, name: str, left: list[str]) -> int | None:
    """Bits of a converter whose step is ``resolution`` of its range from −1 to 1 … over 2."""
    if resolution <= 0:
        return None
    codes = 1.0 / resolution if resolution < 1 else resolution
    bits = max(2, min(16, round(math.log2(codes + 2))))
    if not math.isclose(2**bits - 2, codes, rel_tol=1e-6):
        left.append(f"{name} = {resolution:g} is {codes:g} steps; taken as {bits} bits, {2**bits - 2} steps")
    return bits


def _resolution(bits: int | None) -> float:
    return -1.0 if bits is None else 1.0 / (2**bits - 2)


_DEFAULTS = {"inp_noise": 0.0, "w_noise": 0.0, "ir_drop": 0.0, "inp_asymmetry": 0.0, "out_asymmetry": 0.0}


_TAKEN = {
    "mapping": {"max_input_size", "max_output_size", "weight_scaling_columnwise", "digital_bias"},
    "forward": {"is_perfect", "inp_res", "out_res", "out_noise"},
}
"""Settings that have a counterpart here."""
_PARTS = ("mapping", "forward", "modifier", "clip", "remap", "pre_post")


def _left_out(config: Any) -> list[str]:
    """A sentence for every setting that acts, or differs from its default, and has no counterpart here."""
    found = []
    fresh = type(config)()
    for part in _PARTS:
        own, default = getattr(config, part, None), getattr(fresh, part, None)
        if own is None or (part == "forward" and own.is_perfect):
            continue
        for name, value in vars(own).items():
            if name.startswith("_") or name in _TAKEN.get(part, ()):
                continue
            acts = part == "forward" and name in _DEFAULTS and value != _DEFAULTS[name]
            if acts or value != getattr(default, name, value):
                found.append(f"{part}.{name} = {value!r} has no counterpart here")
    if getattr(config.forward, "ir_drop", 0.0):
        found.append("set wires.r_row_ohm and wires.r_col_ohm instead of ir_drop")
    if not config.mapping.weight_scaling_omega:
        found.append("mapping.weight_scaling_omega = 0: weights here are always scaled to the full range")
    if not config.forward.is_perfect:
        found.append(
            f"forward.out_bound = {float(config.forward.out_bound):g}: ranges here are calibrated on data"
        )
    return found


def _device(model: Any) -> tuple[AihwkitNoise, list[str]]:
    """Any noise model as the device that wraps it, with the arguments of its constructor that differ."""
    name = type(model).__name__
    if name not in noise_models():
        raise UsageError(f"expected a noise model of aihwkit.inference; got {name}")
    import inspect

    said = []
    values = {
        argument: getattr(model, argument, parameter.default)
        for argument, parameter in inspect.signature(type(model).__init__).parameters.items()
        if argument not in ("self", "g_converter")
    }
    needed = {
        name: values[name]
        for name, parameter in inspect.signature(type(model).__init__).parameters.items()
        if name in ("g_max", "g_min") or (name in values and parameter.default is parameter.empty)
    }
    # what an instance says that is given nothing else: constructors fill in their own, and may not take them
    fresh = type(model)(**{name: value for name, value in needed.items() if value is not None})
    options: dict[str, Any] = {name: value for name, value in needed.items() if value is not None}
    for argument, value in values.items():
        if argument in options or value is None or value == getattr(fresh, argument, None):
            continue
        if isinstance(value, bool | int | float | str | list | tuple):
            options[argument] = list(value) if isinstance(value, tuple) else value
        elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
            options[argument] = value
        else:
            said.append(f"noise_model.{argument} of type {type(value).__name__} is left at its default")
    low, high = ends_of(model)
    device = AihwkitNoise(model=name, options=options, g_min_siemens=low, g_max_siemens=high)
    if type(model.g_converter).__name__ not in (
        "SinglePairConductanceConverter",
        "SingleDeviceConductanceConverter",
    ):
        said.append(f"{type(model.g_converter).__name__}: choose array.mapping instead")
    noise_model(device.model, device.options)
    return device, said


_SCALES = {
    "prog_noise_scale": "programming_scale",
    "drift_scale": "drift_scale",
    "read_noise_scale": "read_scale",
}
"""aihwkit's arguments by what they are called here."""


def _counterpart(hw: Hardware) -> tuple[str, dict[str, Any], list[str]]:
    """aihwkit's noise model for the device of a description, its arguments, and what they leave out.

    Raises:
        UsageError: there is none.
    """
    device = hw.device
    if isinstance(device, AihwkitNoise):
        return device.model, dict(device.options), []
    high, low = device.g_max_siemens * 1e6, device.g_min_siemens * 1e6
    options: dict[str, Any] = {"g_max": high}
    carried = {"kind", "g_max_siemens"}
    if isinstance(device, Pcm):
        name = "PCMLikeNoiseModel"
        scales = {**_SCALES, "t_0": "drift_t0_s", "t_read": "read_time_s"}
    elif isinstance(device, PcmHermes):
        name, options["num_devices"] = "HermesNoiseModel", device.devices
        carried.add("devices")
        scales = _SCALES
    elif isinstance(device, RramWan):
        name, scales = "ReRamWan2022NoiseModel", {"noise_scale": "deviation_scale"}
    elif isinstance(device, RramCmo):
        name, options["g_min"] = "ReRamCMONoiseModel", low
        options["acceptance_range"] = 0.2 if device.acceptance == "0.2%" else 2  # keys are in per cent
        carried |= {"g_min_siemens", "acceptance"}
        scales = {**_SCALES, "drift_scale": "relaxation_scale"}
    else:
        raise UsageError(
            f"aihwkit has no noise model for device {device.kind!r}: name one with "
            "hardware('aihwkit:...'), or use pcm, pcm-hermes, rram-wan or rram-cmo"
        )
    options |= {theirs: getattr(device, ours) for theirs, ours in scales.items()}
    carried |= set(scales.values())
    left = [
        f"device.{field} = {getattr(device, field)!r}: aihwkit's {name} has its own"
        for field, info in type(device).model_fields.items()
        if field not in carried and getattr(device, field) != info.default
    ]
    return name, options, left


def _not_there(hw: Hardware) -> list[str]:
    found = []
    if hw.array.mapping != "differential-pair":
        found.append(f"array.mapping = {hw.array.mapping!r}: aihwkit's is a differential pair")
    tables = ("wires", "faults", "periphery", "writing", "endurance", "read_noise", "heat")
    acting = [table for table in tables if getattr(hw, table).act]
    found += [f"[{table}] has no counterpart in aihwkit's inference tiles" for table in acting]
    if hw.layers or hw.parameters:
        found.append("patterns over layers and parameters")
    if hw.compensation in ("per-column", "gain-and-offset"):
        found.append(f"compensation = {hw.compensation!r}: taken as global")
    if hw.array.clip_percentile < 100.0:
        found.append(f"array.clip_percentile = {hw.array.clip_percentile:g}")
    if hw.adc.mismatched or hw.dac.kind != "voltage" or hw.dac.nonlinearity:
        found.append("converters that are not uniform, or not voltages")
    if hw.adc.bits is not None:
        found.append("calibrated ADC ranges: aihwkit's are out_bound, 12 by default")
    return found
