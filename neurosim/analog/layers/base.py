"""What every layer on crossbars is, and how its crossbars are made."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from neurosim.analog.bench import Bench
from neurosim.analog.cells import Cells
from neurosim.analog.crossbar import Crossbar, LookupCrossbar
from neurosim.analog.operators import Lookup, Operator, Referenced, layout, with_references
from neurosim.devices import Hardware


@dataclass
class Site:
    """One layer of one network that is being deployed: makes its crossbars.

    Attributes:
        name: of the layer.
        layer: the layer itself.
        hardware: of this layer.
        bench: of the network.
        cells: of parameters placed so far, by identity: layers that share a parameter share its devices.
        whole: the hardware of the network.
    """

    name: str
    layer: nn.Module
    hardware: Hardware
    bench: Bench
    cells: dict[int, Cells]
    whole: Hardware

    def crossbar(
        self,
        key: str,
        operator: Operator,
        *,
        groups: int = 1,
        bias: str = "bias",
        part: tuple[str, slice] | None = None,
        diagonal: bool = True,
    ) -> Crossbar:
        """The crossbar that reads the parameter ``key`` of the layer.

        Args:
            key: attribute of the layer.
            operator: what is computed with it.
            groups: blocks on the diagonal.
            bias: attribute that holds the bias of the same outputs, if there is one.
            part: a name and a range of outputs where this crossbar reads some of them only.
            diagonal: whether a square weight has devices on its diagonal.
        """
        weight = getattr(self.layer, key)
        matrix = operator.matrix(weight)
        suffix, outputs = (f"[{part[0]}]", part[1]) if part else ("", None)
        columns = len(range(*outputs.indices(len(matrix)))) if outputs else len(matrix)
        cells = self._cells(key, weight)
        cells.readers += 1
        spare = self.hardware.faults.spare_columns
        lies = layout(matrix.shape[1], columns, groups, self.hardware.array, spare)
        referenced = with_references(lies) if cells.mapping.reference else None
        cells.lie_on(lies, outputs.indices(len(matrix))[0] if outputs else 0, operator.by_row)
        return (LookupCrossbar if isinstance(operator, Lookup) else Crossbar)(
            name=self.name if key == "weight" else f"{self.name}.{key}{suffix}",
            noise_name=f"{self.name}.{key}{suffix}",
            hardware=self.hardware,
            operator=operator,
            layout=lies if referenced is None else referenced.layout,
            bench=self.bench,
            cells=cells,
            bias=Cells(f"{self.name}.{bias}{suffix}", self._verified(), "per-layer", readers=1),
            outputs=outputs,
            referenced=referenced,
            references=None if referenced is None else self._references(f"{key}{suffix}", referenced),
            bias_spread=self.whole.spread_of(f"{self.name}.{bias}"),
            diagonal=diagonal,
        )

    def _references(self, key: str, referenced: Referenced) -> Cells:
        """The devices of the columns of references: those of each reader are its own."""
        cells = Cells(f"{self.name}.{key}[reference]", self._verified(), "per-layer", readers=1)
        cells.lie_on(referenced.references, 0, by_row=False)
        return cells

    def _verified(self) -> Hardware:
        """For references and biases, which are few: verified, whichever weights are chosen."""
        if not self.hardware.writing.selective:
            return self.hardware
        return self.hardware.with_("writing.verified_fraction", 1.0)

    def _cells(self, key: str, weight: Tensor) -> Cells:
        """Those of the parameter; a parametrised weight is computed anew at each use and never shared."""
        own = self.layer._parameters.get(key)
        found = self.cells.get(id(own)) if own is not None else None
        if found is None or found.hardware.digest() != self.hardware.digest():
            found = Cells(f"{self.name}.{key}", self.hardware, self.hardware.array.scaling)
            if own is not None:
                self.cells[id(own)] = found
        return found


class OnCrossbars(nn.Module):
    """A layer whose products crossbars compute while chips are on the bench.

    Not constructed: :func:`neurosim.analog.deploy` mixes a subclass into the class of the layer, which keeps
    its parameters and keys; only its forward is new.

    Attributes:
        kind: the layer's type, in the table of layers.
        whole: methods of that type which a subclass must not have changed.
        digital: parameters of that type which stay digital.
        _crossbars: by name of the parameter they read.
        _folded: the batch normalisation that the layer does while chips are on the bench, if any.
    """

    kind: ClassVar[type[nn.Module]]
    whole: ClassVar[tuple[str, ...]] = ("forward",)
    digital: ClassVar[tuple[str, ...]] = ()

    _crossbars: dict[str, Crossbar]
    _folded: nn.Module | None

    @staticmethod
    @abstractmethod
    def place(site: Site) -> dict[str, Crossbar]:
        """The crossbars of a layer."""

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """Whether this is a way to compute what the module does."""
        own = type(module)
        return issubclass(own, cls.kind) and all(_same(own, cls.kind, name) for name in cls.whole)

    @classmethod
    def why_not(cls, layer: nn.Module) -> str | None:
        """Why this layer of the right kind has to stay digital, if it has to."""
        return None

    def _holds(self, key: str) -> bool:
        """Whether crossbars hold the parameter ``key`` (a digital bias counts: it goes with them)."""
        top = key.split(".")[0]
        return top == "parametrizations" or ("." not in key and key not in self.digital)

    def _weight_of(self, key: str) -> Tensor:
        """The parameter that the crossbar ``key`` reads."""
        return cast(Tensor, getattr(self, key))

    def _bias_of(self, key: str) -> Tensor | None:
        """The bias that goes with it, if there is one."""
        return optional(self, key.replace("weight", "bias"))

    @property
    def _idle(self) -> bool:
        """Whether the layer computes as it always did."""
        return next(iter(self._crossbars.values())).idle

    def _product(self, key: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._crossbars[key].forward(x, weight, bias)


def look(module: nn.Module, args: Any) -> None:
    """A hook that does nothing: with it torch calls a layer's forward, see ``Deployed.on``."""


def watched(layer: nn.Module) -> bool:
    """Whether somebody listens to the layer, or put another forward on it: then it has to be called."""
    others = [hook for hook in layer._forward_pre_hooks.values() if hook is not look]
    return bool(others or layer._forward_hooks) or "forward" in layer.__dict__


def _same(own: type[nn.Module], kind: type[nn.Module], method: str) -> bool:
    """Whether the method is that of the kind, or one that its class says (``same_sums``) gives the same."""
    maker = next(base for base in own.__mro__ if method in vars(base))
    return maker in kind.__mro__ or method in vars(maker).get("same_sums", ())


def optional(layer: nn.Module, key: str) -> Tensor | None:
    """An attribute that may be missing or None."""
    return cast("Tensor | None", getattr(layer, key, None))
