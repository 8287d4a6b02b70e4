"""One network of the zoo, layer by layer: shapes, sizes, and what it takes of a hardware's tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neurosim.analog import deploy
from neurosim.analog.explain import aligned
from neurosim.devices import Hardware
from neurosim.models import catalogue


@dataclass(frozen=True)
class Layer:
    """A module without modules in it, that has parameters.

    Attributes:
        name, kind: of the module.
        inputs, outputs: shapes for one image, without the batch; of its first use.
        parameters, macs: numbers that training may change (shared ones where they are first met) and
            multiply-accumulates of one image, all uses together.
        tiles, devices, utilisation: on the hardware; none for a layer that stays digital.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: int
    macs: int
    tiles: int | None = None
    devices: int | None = None
    utilisation: float | None = None

    @property
    def digital(self) -> bool:
        """Whether it has no place on crossbars."""
        return self.tiles is None


@dataclass(frozen=True)
class Card:
    """A network at one size on one hardware."""

    model: str
    hardware: str
    layers: tuple[Layer, ...]

    def totals(self) -> dict[str, int]:
        """Sums over all layers."""
        return {
            "parameters": sum(layer.parameters for layer in self.layers),
            "macs": sum(layer.macs for layer in self.layers),
            "tiles": sum(layer.tiles or 0 for layer in self.layers),
            "devices": sum(layer.devices or 0 for layer in self.layers),
            "digital_parameters": sum(layer.parameters for layer in self.layers if layer.digital),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dictionaries, ready for JSON."""
        layers = [asdict(layer) | {"digital": layer.digital} for layer in self.layers]
        return {"hardware": self.hardware, "layers": layers, "totals": self.totals()}

    def __str__(self) -> str:
        head = ("layer", "type", "reads", "gives", "parameters", "MACs", "tiles", "used")
        rows = [
            (
                layer.name,
                layer.kind,
                "x".join(map(str, layer.inputs)),
                "x".join(map(str, layer.outputs)),
                f"{layer.parameters:,}",
                f"{layer.macs:,}",
                "" if layer.tiles is None else f"{layer.tiles:,}",
                "digital" if layer.utilisation is None else f"{100 * layer.utilisation:.1f} %",
            )
            for layer in self.layers
        ]
        sums = self.totals()
        return (
            f"{aligned([head, *rows])}\n\n{len(rows)} layers, {sums['parameters']:,} parameters "
            f"({sums['digital_parameters']:,} in layers that stay digital), {sums['macs']:,} "
            f"multiply-accumulates an image; {sums['tiles']:,} tiles and {sums['devices']:,} devices of "
            f"{self.hardware}"
        )


def card(
    name: str,
    hardware: Hardware,
    *,
    num_classes: int,
    in_chans: int,
    image_size: int | Sequence[int],
    **overrides: Any,
) -> Card:
    """The layers of a model at this size, in the order in which they are built.

    No weights are made: shapes are followed on the meta device, so the largest network takes a second.

    Raises:
        UsageError: as :func:`neurosim.models.create`.

    >>> from neurosim.devices import hardware
    >>> found = card("mlp", hardware("ideal"), num_classes=10, in_chans=1, image_size=8, hidden=(16,))
    >>> [(layer.name, layer.inputs, layer.outputs, layer.macs) for layer in found.layers]
    [('layers.1', (64,), (16,), 1024), ('layers.3', (16,), (10,), 160)]
    >>> found.totals()["parameters"]
    1210
    """
    net = catalogue.outline(
        name, num_classes=num_classes, in_chans=in_chans, image_size=image_size, **overrides
    ).eval()
    shapes = _shapes(net)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        net(torch.empty(1, *catalogue.input_shape(name, in_chans, image_size), device="meta"))
    macs = {key.partition(".")[2]: sum(ops.values()) // 2 for key, ops in counted.get_flop_counts().items()}
    placed = {row.name: row for row in deploy(net, hardware).explain().layers}
    layers, seen = [], set[int]()
    for path, module in net.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(id(p) for p in own)
        if not own and path not in placed:
            continue
        row = placed.get(path)
        inputs, outputs = shapes.get(path, ((), ()))
        layers.append(
            Layer(
                name=path,
                kind=type(module).__name__,
                inputs=inputs,
                outputs=outputs,
                parameters=sum(p.numel() for p in own if p.requires_grad),
                macs=macs.get(path, 0),
                tiles=None if row is None else row.tiles,
                devices=None if row is None else row.devices,
                utilisation=None if row is None else row.utilisation,
            )
        )
    return Card(name, hardware.name, tuple(layers))


def _shapes(net: nn.Module) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Filled by a forward: what each module reads and gives first, without the batch."""
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for path, module in net.named_modules():

        def remember(_: nn.Module, inputs: Any, output: Any, path: str = path) -> None:
            if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor):
                found.setdefault(path, (tuple(inputs[0].shape[1:]), tuple(output.shape[1:])))

        module.register_forward_hook(remember)
    return found
