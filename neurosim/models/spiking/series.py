"""Gradients of the constants of a spiking layer: sums over what backward found in every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurosim.models.spiking.constants import Flag, Row


@dataclass(frozen=True)
class Series:
    """Gradients of a layer's state in every step, (chips, samples, steps, N) each.

    Attributes:
        potentials: also of neurons that are held at their reset, where they are those of the reset.
        currents: of the synapse; no steps where there is none.
        adaptations: no steps where a threshold does not adapt.
        thresholds: of the level that the potential had to pass.
    """

    potentials: Tensor
    currents: Tensor
    adaptations: Tensor
    thresholds: Tensor

    @classmethod
    def empty(cls, like: Tensor, flags: Flag) -> Series:
        """Room for the gradients of a layer with spikes ``like``."""

        def room(wanted: bool) -> Tensor:
            chips, samples, steps, size = like.shape
            return like.new_empty((chips, samples, steps if wanted else 0, size))

        return cls(
            room(True), room(bool(flags & Flag.SYNAPSE)), room(bool(flags & Flag.ADAPTIVE)), room(True)
        )


def of_constants(series: Series, constants: Tensor, flags: Flag, kept: tuple[Tensor, ...]) -> Tensor:
    """The gradient of each constant of each neuron, summed over samples and steps.

    Args:
        series: what backward found.
        constants: (chips, rows, N).
        flags: of the layer.
        kept: codes, potentials, adaptations, inputs and synaptic currents of forward.

    Returns:
        (chips, rows, N); 0 where a constant is not used.
    """
    codes, potentials, adaptations, inputs, synaptic = kept
    subtract, synapse = bool(flags & Flag.SUBTRACT), bool(flags & Flag.SYNAPSE)
    row = {r: constants[:, None, None, r] for r in Row}
    fired = codes == 1
    d_v, fired_before = series.potentials, _later(fired)
    found = {r: torch.zeros_like(constants[:, r]) for r in Row}
    if flags & Flag.REFRACTORY and not subtract:
        held = codes == 2
        found[Row.RESET] = _sum(d_v, held)
        d_v = d_v.masked_fill(held, 0.0)
    before = torch.cat([row[Row.INITIAL].expand_as(d_v[:, :, :1]), potentials[:, :, :-1]], dim=2)
    if not subtract:
        before = torch.where(fired_before, row[Row.RESET], before)
        found[Row.RESET] = found[Row.RESET] + constants[:, Row.DECAY] * _sum(d_v, fired_before)
    found[Row.DECAY] = _sum(d_v, before)
    found[Row.GAIN] = _sum(d_v, synaptic if synapse else inputs)
    found[Row.LEAK] = d_v.sum((1, 2))
    found[Row.THRESHOLD] = series.thresholds.sum((1, 2))
    found[Row.INITIAL] = constants[:, Row.DECAY] * d_v[:, :, :1].sum((1, 2))
    if synapse:
        found[Row.SYN_DECAY] = _sum(series.currents[:, :, 1:], synaptic[:, :, :-1])
        found[Row.SYN_GAIN] = _sum(series.currents, inputs)
    if flags & Flag.ADAPTIVE:
        spikes_before = fired_before.to(d_v.dtype)
        found[Row.ADA_DECAY] = _sum(series.adaptations, _later(adaptations) - spikes_before)
        found[Row.ADA_GAIN] = _sum(series.thresholds, adaptations)
    return torch.stack([found[r] for r in Row], dim=1)


def _later(x: Tensor) -> Tensor:
    """The same one step later, after a step of nothing."""
    return torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], dim=2)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2))
