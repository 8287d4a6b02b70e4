"""What every device is: a frozen model of its constants with pure physics, batched over chips.

This module and the device classes import torch only inside methods, so that a hardware
description can be listed and checked without it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from neurosim.devices.fit_range import FitRange
from neurosim.devices.problems import problems
from neurosim.errors import UsageError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
    from torch import Tensor

    from neurosim.random import Draws
else:
    ModelMetaclass = type(BaseModel)  # pydantic keeps its name private


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("truth_value", "expected a number")
    return value


# Numbers of a description: pydantic alone would read `true` as 1.
Real = Annotated[float, BeforeValidator(_no_truth_value)]
Whole = Annotated[int, BeforeValidator(_no_truth_value)]


class _Checked(ModelMetaclass):
    """Constructing a model by hand raises UsageError, not pydantic's error.

    A metaclass call, unlike ``__init__``, is not run again for nested models, whose errors pydantic
    must gather itself.
    """

    def __call__(self, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            sentences = [problem.sentence for problem in problems(error, self)]  # type: ignore[arg-type]
            raise UsageError(f"{self.__name__}: {'; '.join(sentences)}") from error


class Frozen(BaseModel, metaclass=_Checked):
    """Immutable; refuses unknown fields, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def without_defaults(model: BaseModel, data: dict[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """A dumped model without those of ``fields`` that are as they are by default.

    Fields that come later than the first descriptions stay out of them, and out of their digests, while they
    change nothing.
    """
    silent = {name for name in fields if getattr(model, name) == type(model).model_fields[name].default}
    return {name: value for name, value in data.items() if name not in silent}


@dataclass(frozen=True)
class Effect:
    """One imperfection, for people to read.

    Attributes:
        name: what it is called, such as ``"programming noise"``.
        acts: whether it changes anything with these constants.
        drawn: when it is drawn.
        size: how large it is, with units.
    """

    name: str
    acts: bool
    drawn: Literal["once per chip", "once per chip and age", "per read", "-"]
    size: str


class Device(Frozen, ABC):
    """A memory device that holds one conductance between ``g_min_siemens`` and ``g_max_siemens``.

    A subclass is final: it states its constants as fields and its physics as three pure methods.
    Tensors keep the type (float32 or float64) and place of ``g_target_siemens``.
    """

    # whether a conductance that another process has written ages as one of its own
    written_apart: ClassVar[bool] = True

    kind: str
    g_min_siemens: Real = Field(default=0.0, ge=0.0, le=1.0)
    g_max_siemens: Real = Field(default=25e-6, ge=1e-15, le=1.0)

    @model_validator(mode="after")
    def _ordered(self) -> Device:
        # closer than this, float32 conductances cannot carry a weight in their difference
        if not self.g_min_siemens < 0.999 * self.g_max_siemens:
            raise ValueError(
                f"expected g_min_siemens < 0.999 * g_max_siemens; got g_min_siemens={self.g_min_siemens!r}, "
                f"g_max_siemens={self.g_max_siemens!r}"
            )
        return self

    @abstractmethod
    def program(self, g_target_siemens: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Write target conductances into fresh devices, once per chip.

        Args:
            g_target_siemens: (*shape), what the devices should hold.
            draws: the named draws of this tensor on the chips wanted.

        Returns:
            The state of the devices, each entry (chips, *shape); ``"g_siemens"`` is the conductance
            right after programming.  Entries may share memory: treat them as read-only.

        Raises:
            UsageError: ``g_target_siemens`` is neither float32 nor float64.
        """

    @abstractmethod
    def age(self, state: dict[str, Tensor], time_s: float, draws: Draws) -> Tensor:
        """Conductances, (chips, *shape), ``time_s`` seconds after programming.

        Never redraws what :meth:`program` drew, so any two ages belong to the same chips.

        Raises:
            UsageError: ``time_s`` is negative, NaN or infinite.
        """

    @abstractmethod
    def effects(self) -> list[Effect]:
        """What this device does to a conductance, for tables that people read."""

    def moments(self, g_target_siemens: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation over chips of what :meth:`program` leaves, siemens, where it is known.

        None of a device whose law has no closed form here.
        """
        return None

    def activation_energy_ev(self, reference_kelvin: float) -> float | None:
        """Of its ageing, if there is one that is known."""
        return None

    def fit_range(self) -> FitRange:
        """Where it was measured; a device that states nothing is arithmetic and fits any range."""
        return FitRange()


def check_time(time_s: float) -> float:
    """``time_s`` as a float; UsageError unless it is finite and not negative."""
    try:
        seconds = float(time_s)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise UsageError(f"expected an age of 0 seconds or more; got time_s={time_s!r}")
    return seconds


def check_target(g_target_siemens: Tensor) -> None:
    """UsageError unless the target is float32 or float64: in half precision microsiemens underflow."""
    if str(g_target_siemens.dtype) not in ("torch.float32", "torch.float64"):
        raise UsageError(f"expected float32 or float64 conductances; got {g_target_siemens.dtype}")


def percent(fraction: float) -> str:
    """A fraction as people write it.

    >>> percent(0.3)
    '30 %'
    """
    return f"{100 * fraction:.3g} %"


def fusable(*tensors: Tensor) -> bool:
    """Whether the fused CPU kernels may compute on these: float32 on the CPU, and no gradient wanted."""
    import torch

    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return not wanted and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
