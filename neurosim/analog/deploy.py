"""Turn a network into the same network with its weights on crossbars."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from neurosim.analog.bench import Bench
from neurosim.analog.cells import Cells
from neurosim.analog.deployed import Deployed
from neurosim.analog.folding import Folded, foldable
from neurosim.analog.folding import fold as fold_pairs
from neurosim.analog.layers import OnCrossbars, Site
from neurosim.analog.limits import heed_conductances
from neurosim.analog.mixing import mix, original_class
from neurosim.analog.named import place_named
from neurosim.analog.sampled import sample_parameters
from neurosim.analog.selection import EXCLUDED, Selection, covered, select
from neurosim.devices import Hardware
from neurosim.errors import UsageError, unknown


def deploy(
    model: nn.Module,
    hardware: Hardware,
    *,
    calibration: Any = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    strict: bool = False,
    weights: Sequence[str] = (),
    fold: bool | Iterable[tuple[str, str]] = False,
    products: Literal["float32", "bfloat16"] = "float32",
) -> Deployed:
    """A deep copy of ``model`` whose weights are on crossbars of ``hardware``.

    Same class tree, same ``state_dict`` keys, still trainable.  Outside ``net.on(...)`` it computes
    exactly what ``model`` does.

    Args:
        model: any module.  Layers of :data:`neurosim.analog.layers.LAYERS` (linear, bilinear, convolutions
            and transposed convolutions, embeddings, recurrent layers and cells, multi-head attention) go on
            crossbars; others stay digital, and ``net.explain()`` names them.
        hardware: from :func:`neurosim.hardware`.
        calibration: inputs on which converter ranges are fixed, as by ``net.calibrate``.
        include, exclude: patterns over names of modules or parameters, such as ``"layer1.*"``; ``":first"``
            and ``":last"`` name the first and the last layer that could be on crossbars.
        strict: refuse to leave a parameter off the crossbars that ``exclude`` does not name.
        weights: patterns over names of parameters in other modules: wherever such a module multiplies by one
            (``F.linear``, ``@``, ``torch.addmm``, a convolution, ``F.embedding``), a crossbar does it.
        fold: have each batch normalisation done by the layer before it (True finds the pairs with
            ``torch.fx``; or pairs of names), instead of digitally after it.
        products: type of the numbers that chips multiply where no gradient is wanted; sums are kept in
            float32.  ``"bfloat16"`` halves the time of a product on processors that have it: weights and
            products are rounded to 8 bits (1/512), codes of a DAC of up to 8 bits are exact.
            :meth:`Deployed.products_error` says what that changes.

    Raises:
        UsageError: not a module, not a Hardware, deployed already (or with such a part), TorchScript or an
            exported graph, a weight that is empty or holds NaN or infinity, a pattern that matches nothing,
            a network that cannot be folded, or a parameter left over with ``strict``.

    >>> import neurosim as ns
    >>> plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> net = deploy(plain, ns.hardware("gaussian-mismatch"))
    >>> with net.on(ns.Lot(net.hardware, seed=0)[0:16]) as chips:
    ...     chips(torch.ones(5, 4)).shape
    torch.Size([16, 5, 2])
    """
    _check(model, hardware)
    patterns = _texts("include", include), _texts("exclude", exclude)
    named = _texts("weights", weights)
    chosen = select(model, *patterns)
    pairs = _pairs(model, fold, chosen)
    net = _copy(model)
    bench = Bench(products=_products(products))
    heed_conductances(hardware, bench.told)
    cells: dict[int, Cells] = {}
    for name, row in chosen.rows.items():
        _place(net.get_submodule(name), name or "root", row, hardware, bench, cells)
    place_named(net, named, hardware, bench, cells)
    fold_pairs(net, pairs, bench)
    _check_layers(hardware, net)
    sampled = sample_parameters(net, hardware, bench, _taken(net))
    options = {
        "include": patterns[0],
        "exclude": patterns[1],
        "strict": strict,
        "weights": named,
        "fold": pairs,
        "products": products,
    }
    deployed = Deployed.made_of(net, hardware, bench, options, chosen.reasons, tuple(sampled))
    if strict:
        _check_nothing_left(deployed, chosen, patterns[1])
    if calibration is not None:
        deployed.calibrate(calibration)
    return deployed


def _check(model: nn.Module, hardware: Hardware) -> None:
    kind: object = model
    if not isinstance(kind, nn.Module):
        hint = ": deploy the network it was exported from" if "ExportedProgram" in type(kind).__name__ else ""
        raise UsageError(f"expected a torch module to deploy; got {type(kind).__name__}{hint}")
    if not isinstance(hardware, Hardware):
        raise UsageError(f"expected a Hardware, from neurosim.hardware(name); got {hardware!r}")
    if any(isinstance(module, Deployed) for module in model.modules()):
        raise UsageError("expected a network that is not deployed yet; deploy the original instead")


def _products(name: str) -> torch.dtype:
    if name not in ("float32", "bfloat16"):
        raise unknown("type of products", name, ("float32", "bfloat16"))
    if name == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():
        raise UsageError("this processor has no bfloat16 products (avx512_bf16): use products='float32'")
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _texts(name: str, patterns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"expected a list of patterns, such as {name}=['layer1.*']; got {patterns!r}")
    return tuple(patterns)


def _pairs(
    model: nn.Module, fold: bool | Iterable[tuple[str, str]], chosen: Selection
) -> tuple[tuple[str, str], ...]:
    if fold is False:
        return ()
    if fold is True:
        return tuple(foldable(model, chosen.rows))
    pairs = tuple((str(layer), str(norm)) for layer, norm in fold)
    for layer, norm in pairs:
        if layer not in chosen.rows:
            raise UsageError(f"cannot fold {norm!r} into {layer!r}: that is no layer on crossbars")
    return pairs


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that a forward has left behind are copied as numbers.

    ``torch.nn.utils.weight_norm``, the old one, keeps the last weight as such a tensor.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            # nn.RNNBase keeps its weights in a list besides
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(one, Tensor) and not one.is_leaf:
                    memo[id(one)] = one.detach().clone()
    return copy.deepcopy(model, memo)


def _place(
    layer: nn.Module,
    name: str,
    row: type[OnCrossbars],
    hardware: Hardware,
    bench: Bench,
    cells: dict[int, Cells],
) -> None:
    _check_finite(name, layer)
    crossbars = row.place(Site(name, layer, hardware.for_layer(name), bench, cells, hardware))
    mix(layer, row, "Crossbar", _crossbars=crossbars, _folded=None)


def _taken(net: nn.Module) -> set[str]:
    """Names of the parameters that crossbars hold or add."""
    return {
        f"{name}.{key}" if name else key
        for name, module in net.named_modules()
        if isinstance(module, (OnCrossbars, Folded))
        for key, _ in module.named_parameters()
        if not isinstance(module, OnCrossbars) or module._holds(key)
    }


def _check_layers(hardware: Hardware, net: nn.Module) -> None:
    names = [name or "root" for name, module in net.named_modules() if isinstance(module, OnCrossbars)]
    for pattern in hardware.layers:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown(
                f"layer on crossbars that layers.{pattern!r} of the hardware names,", pattern, names
            )


def _check_finite(name: str, module: nn.Module) -> None:
    for key, parameter in module.named_parameters(recurse=False):
        at = f"{name}.{key}" if name != "root" else key
        if isinstance(parameter, UninitializedParameter):
            raise UsageError(
                f"expected weights to put on crossbars; {at} has no size yet: run one batch first"
            )
        if parameter.numel() == 0:
            raise UsageError(f"expected weights to put on crossbars; {name}.{key} is empty")
        if not parameter.is_meta and not bool(torch.isfinite(parameter).all()):
            raise UsageError(f"expected finite weights; got NaN or infinity in {at}")


def _check_nothing_left(net: Deployed, chosen: Selection, exclude: Sequence[str]) -> None:
    if not net._all_crossbars() and not net.options["weights"]:
        raise UsageError(f"strict: nothing of this {original_class(net).__name__} could go on crossbars")
    named = {name for name, why in chosen.reasons.items() if why == EXCLUDED}
    left = [
        name
        for name in net.digital_parameters()
        if not covered(name, exclude) and name.rpartition(".")[0] not in named
    ]
    if left:
        others = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise UsageError(
            f"strict: the parameter {left[0]!r}{others} would stay digital; expected each on a crossbar "
            f"or named by exclude, such as exclude=[{left[0]!r}]"
        )
