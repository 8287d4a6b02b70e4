"""What a crossbar does to inputs of zeros and ones, such as spikes, where that is a matrix.

A converter of inputs gives every spike the same height and silence none: it scales the matrix.  What is not
linear in spikes is an ADC, noise that every read draws anew, and devices that follow a law.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurosim.analog.reading import additions, weights
from neurosim.analog.realised import Realised
from neurosim.devices import quantise
from neurosim.devices.converters import bowed

if TYPE_CHECKING:
    from neurosim.analog.crossbar import Crossbar


def affine(crossbar: Crossbar, realised: Realised) -> tuple[Tensor | None, Tensor | None]:
    """W and b of y = W·x + b for inputs of zeros and ones: (chips, outputs, rows) and (chips, outputs).

    (None, None) where a read is more than that; b is None where nothing is added.
    """
    if not is_affine(crossbar):
        return None, None
    matrix, added = weights(crossbar, realised), additions(crossbar, realised)
    active = crossbar.bench.active
    if active is not None and active.linear:
        factors = crossbar.probe_factors(active)
        return matrix * factors.unsqueeze(2).to(matrix), None if added is None else added * factors.to(added)
    height = _height_of_a_spike(crossbar)
    return (matrix if height == 1.0 else matrix * height), added


def is_affine(crossbar: Crossbar) -> bool:
    """Whether a read of zeros and ones is a product with a matrix and a sum."""
    hw = crossbar.hardware
    return (
        crossbar.folds
        and not hw.wires.nonlinear
        and hw.dac.jitter_std == 0
        and crossbar.bench.counter is None
    )


def _height_of_a_spike(crossbar: Crossbar) -> float:
    """What the word lines carry for an input of 1."""
    dac = crossbar.hardware.dac
    if dac.bits is None and not dac.nonlinearity:
        return 1.0
    full, one = crossbar.calibrated().dac, torch.ones(1)
    return float(bowed(quantise(one, full, dac.bits), full, dac.nonlinearity))
