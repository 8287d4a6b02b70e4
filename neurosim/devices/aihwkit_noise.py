"""Any inference noise model of IBM's aihwkit as a device: its numbers, with our streams and both legs."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from neurosim.devices.device import Device, Effect, check_target, check_time
from neurosim.devices.frozen import FrozenDict
from neurosim.errors import RunError, UsageError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

PREFIX = "aihwkit:"
_LAST_S = 1e30  # beyond it aihwkit's formulas overflow
REMEDY = (
    "install it with pip install 'neurosim[aihwkit]', beside CPU torch with pip install --no-deps aihwkit"
)


class AihwkitNoise(Device):
    r"""A noise model of ``aihwkit.inference.noise``, called on conductances in µS.

    * Programming: ``apply_programming_noise_to_conductance`` and ``generate_drift_coefficients``, once per
      chip and leg.
    * Age: ``apply_drift_noise_to_conductance`` with those coefficients; what it draws anew for a read is the
      same for the same chip and age.

    aihwkit draws from torch's global generator.  Here it is given a generator of its own for every chip, leg,
    effect and age, from our streams, so that a chip is the same alone and in a batch; the global one is left
    where it was.  Unlike in aihwkit, both legs of a pair keep their own history.  No gradient passes through
    the models: it passes to the target as if it had been written exactly.

    Attributes:
        model: the class, such as ``"PCMLikeNoiseModel"``.
        options: its arguments, conductances in µS as aihwkit wants them.

    Raises:
        RunError: aihwkit cannot be imported.
        UsageError: an argument or an age that the model refuses.
    """

    kind: Literal["aihwkit"] = "aihwkit"
    model: str = Field(default="PCMLikeNoiseModel", pattern=r"^[A-Za-z_]\w{0,99}$")
    options: dict[str, Any] = FrozenDict()

    @field_validator("options")
    @classmethod
    def _frozen_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_plain(value, "device.options")
        return FrozenDict(value)

    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        import torch

        check_target(g_target_siemens)
        model = noise_model(self.model, self.options)
        target = (g_target_siemens.detach().to("cpu", torch.float32) * 1e6).contiguous()
        chips = [
            _called(
                draws, chip, "programming",
                lambda: (
                    model.apply_programming_noise_to_conductance(target),
                    model.generate_drift_coefficients(target),
                ),
            )
            for chip in draws.chips
        ]  # fmt: skip
        g = torch.stack([programmed for programmed, _ in chips]).to(g_target_siemens) * 1e-6
        state = {"g_siemens": g + (g_target_siemens - g_target_siemens.detach())}
        for number, entry in enumerate(_tensors(chips[0][1])):
            each = [_tensors(coefficients)[number] for _, coefficients in chips]
            state[f"coefficient_{number}"] = torch.stack(each).to(g_target_siemens)
            assert entry.shape == target.shape
        return state

    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        import torch

        time_s = check_time(time_s)
        g = state["g_siemens"]
        if time_s == 0.0:
            return g
        model = noise_model(self.model, self.options)
        last = min(time_s, _LAST_S)
        kept = [state[key] for key in sorted(state) if key.startswith("coefficient_")]
        aged = []
        for k, chip in enumerate(draws.chips):
            held = g[k].detach().to("cpu", torch.float32) * 1e6
            own = [one[k].to("cpu", torch.float32) for one in kept]
            nu = None if not own else own[0] if len(own) == 1 else own
            aged.append(
                _called(
                    draws, chip, f"age@{time_s!r}",
                    lambda held=held, nu=nu: model.apply_drift_noise_to_conductance(held, nu, last),
                )
            )  # fmt: skip
        return torch.stack(aged).to(g) * 1e-6 + (g - g.detach())

    def effects(self) -> list[Effect]:
        given = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        size = f"aihwkit's {self.model}({given})"
        return [Effect("programming noise and drift", True, "once per chip", size)]


def parse(text: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Model and arguments of a name such as ``"aihwkit:PCMLikeNoiseModel(g_max=25)"``.

    >>> parse("aihwkit:PCMLikeNoiseModel(g_max=25)", {"t_0": 20.0})
    ('PCMLikeNoiseModel', {'g_max': 25, 't_0': 20.0})

    Raises:
        UsageError: not of this form.
    """
    try:
        tree = ast.parse(text.removeprefix(PREFIX).strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, dict(options)
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
            raise ValueError
        found = {str(one.arg): ast.literal_eval(one.value) for one in tree.keywords}
        return tree.func.id, {**found, **options}
    except (ValueError, SyntaxError, TypeError, RecursionError):
        raise UsageError(
            f"expected aihwkit:MODEL or aihwkit:MODEL(name=value, ...), such as "
            f"aihwkit:PCMLikeNoiseModel(g_max=25); got {text!r}"
        ) from None


def device_of(text: str, options: Mapping[str, Any]) -> AihwkitNoise:
    """The device of such a name; asks the model for the ends of its range.

    Raises:
        RunError: aihwkit cannot be imported.
        UsageError: no such model, or an argument that it refuses.
    """
    model, given = parse(text, options)
    _check_plain(given, model)
    made = noise_model(model, given)
    low, high = ends_of(made)
    return AihwkitNoise(model=model, options=given, g_min_siemens=low, g_max_siemens=high)


def noise_models() -> dict[str, type]:
    """Every noise model of the aihwkit that is installed, by name.

    Raises:
        RunError: aihwkit cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from aihwkit.inference.noise import base, custom, pcm, reram

            modules = [custom, pcm, reram]
            try:
                from aihwkit.inference.noise import hermes

                modules.append(hermes)
            except ImportError:  # older ones have none
                pass
    except Exception as error:  # its compiled parts may fail in any way
        raise RunError(f"aihwkit cannot be imported ({error}): {REMEDY}") from error
    return {
        name: found
        for module in modules
        for name, found in vars(module).items()
        if inspect.isclass(found)
        and issubclass(found, base.BaseNoiseModel)
        and found.__module__ == module.__name__
    }


def noise_model(model: str, options: Mapping[str, Any]) -> Any:
    """An instance; the same for the same arguments.

    Raises:
        RunError, UsageError: as :func:`device_of`.
    """
    return _noise_model(model, FrozenDict(options))


def ends_of(model: Any) -> tuple[float, float]:
    """Least and greatest conductance of a noise model's devices, in siemens."""
    converter = model.g_converter
    high = getattr(model, "g_max", None) or getattr(converter, "g_max", None) or 25.0
    low = getattr(model, "g_min", None) or getattr(converter, "g_min", None) or 0.0
    return float(low) * 1e-6, float(high) * 1e-6


@lru_cache(maxsize=64)
def _noise_model(model: str, options: FrozenDict[str, Any]) -> Any:
    known = noise_models()
    if model not in known:
        raise unknown("noise model of aihwkit", model, known)
    try:
        return known[model](**_thawed(options))
    except Exception as error:  # whatever its constructor says
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"aihwkit's {model} refuses its arguments: {reason}") from error


def _called(draws: Draws, chip: int, effect: str, work: Any) -> Any:
    """Work of one chip, with torch's generator seeded by a stream for as long as it lasts."""
    import torch

    from neurosim.random import stream

    words = stream(draws.lot, chip, draws.name, f"aihwkit, {effect}").bits((624,))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.set_rng_state(_mersenne_state(words))
        try:
            return work()
        except Exception as error:  # its own kinds among them
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(f"aihwkit's noise model cannot do this ({effect}): {reason}") from error


def _mersenne_state(words: Tensor) -> Tensor:
    """A state of torch's CPU generator, a Mersenne Twister, made of 624 words of 32 bits.

    Not ``manual_seed``, which keeps 32 bits of its seed: too few for as many streams as chips have.
    """
    import torch

    state = torch.Generator().manual_seed(0).get_state().view(torch.int64)
    if state.numel() != 632:
        raise RunError(
            f"torch {torch.__version__} keeps its generator in another form than this bridge to aihwkit knows"
        )
    state[3:627] = words
    return state.view(torch.uint8)


def _tensors(coefficients: Any) -> list[Any]:
    if coefficients is None:
        return []
    return list(coefficients) if isinstance(coefficients, list | tuple) else [coefficients]


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(part) for key, part in value.items()}
    return [_thawed(part) for part in value] if isinstance(value, list | tuple) else value


def _check_plain(value: Any, where: str) -> None:
    """UsageError unless made of numbers, text, lists and tables: what a description can hold."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise UsageError(f"expected names as keys of {where}; got {key!r}")
            _check_plain(part, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for part in value:
            _check_plain(part, where)
    elif not isinstance(value, bool | int | float | str):
        raise UsageError(f"expected numbers, text, lists or tables in {where}; got {type(value).__name__}")
