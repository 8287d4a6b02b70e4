"""Spiking networks to and from NIR, the neuromorphic intermediate representation (needs the extra ``snn``).

NIR describes neurons as continuous equations with a value of each parameter for each neuron, and all of them
come and go exactly.  What it has no word for, our time step, rule of integration and surrogate, travels as
metadata; a graph of another program takes them from the arguments of :func:`from_nir`.  Source: Pedersen et
al., Nature Communications 15 (2024), doi:10.1038/s41467-024-52259-9.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurosim.errors import UsageError
from neurosim.models.spiking.layers import Delay, Filter, Neurons, Recurrent
from neurosim.models.spiking.neurons import CubaLif, If, Lif, Neuron, Scheme
from neurosim.models.spiking.readout import CubaLeakyIntegrator, Integrator, LeakyIntegrator
from neurosim.models.spiking.surrogates import KINDS, Surrogate

# NIR's class → ours, and NIR's names of the parameters → ours
_LI = {"tau": "tau_mem_s", "r": "resistance", "v_leak": "v_leak"}
_CUBA = {
    "tau_syn": "tau_syn_s",
    "tau_mem": "tau_mem_s",
    "r": "resistance",
    "v_leak": "v_leak",
    "w_in": "w_in",
}
_SPIKES = {"v_threshold": "v_threshold", "v_reset": "v_reset"}
_NODES: dict[str, tuple[type[Neuron], dict[str, str]]] = {
    "I": (Integrator, {"r": "resistance"}),
    "IF": (If, {"r": "resistance", **_SPIKES}),
    "LI": (LeakyIntegrator, _LI),
    "LIF": (Lif, {**_LI, **_SPIKES}),
    "CubaLI": (CubaLeakyIntegrator, _CUBA),
    "CubaLIF": (CubaLif, {**_CUBA, **_SPIKES}),
}
_KINDS = {kind: name for name, (kind, _) in _NODES.items()}


def _nir() -> Any:
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        raise UsageError(
            "NIR graphs need the package nir, which is not installed: pip install 'neurosim[snn]'"
        ) from error


# ---- out --------------------------------------------------------------------------------------------------


def to_nir(network: nn.Module) -> Any:
    """A NIR graph of a spiking network.

    Args:
        network: an ``nn.Sequential``, or one such layer, of ``nn.Linear``, :class:`Neurons`,
        :class:`Recurrent`,
            :class:`Filter` and :class:`Delay`.

    Returns:
        ``nir.NIRGraph``; ``nir.write(file, graph)`` saves it.

    Raises:
        UsageError: nir is not installed, or something that NIR has no node for.
    """
    nir = _nir()
    layers = list(network.named_children()) if isinstance(network, nn.Sequential) else [("layer", network)]
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    last = "input"
    for name, layer in layers:
        made, inner, first, end = _layer_out(nir, name, layer)
        nodes.update(made)
        edges += [(last, first), *inner]
        last = end
    if not nodes:
        raise UsageError("expected a network of at least one layer to write as a NIR graph; got an empty one")
    first_shape = nodes[edges[0][1]].input_type["input"]
    nodes = {
        "input": nir.Input(input_type={"input": np.array(first_shape)}),
        **nodes,
        "output": nir.Output(output_type={"output": np.array(nodes[last].output_type["output"])}),
    }
    return nir.NIRGraph(nodes, [*edges, (last, "output")])


_Made = tuple[dict[str, Any], list[tuple[str, str]], str, str]  # nodes, edges, first, last


def _layer_out(nir: Any, name: str, layer: Any) -> _Made:
    if isinstance(layer, nn.Linear):
        return {name: _matrix_out(nir, layer)}, [], name, name
    if isinstance(layer, Neurons) and not layer.has_delay:
        return {name: _neurons_out(nir, name, layer)}, [], name, name
    if isinstance(layer, Filter):
        return {name: _neurons_out(nir, name, layer)}, [], name, name
    if isinstance(layer, Delay):
        metadata = {"dt_s": layer.dt_s}
        return {name: nir.Delay(delay=_array(layer.delay_s), metadata=metadata)}, [], name, name
    if isinstance(layer, Recurrent):
        return _recurrent_out(nir, name, layer)
    raise UsageError(f"NIR has no node for {name!r}, a {type(layer).__name__}")


def _matrix_out(nir: Any, layer: nn.Linear) -> Any:
    bias: Tensor | None = layer.bias
    if bias is None:
        return nir.Linear(weight=_array(layer.weight))
    return nir.Affine(weight=_array(layer.weight), bias=_array(bias))


def _neurons_out(nir: Any, name: str, layer: Neurons | Filter) -> Any:
    neuron: Any = layer.description
    kind = _KINDS.get(type(neuron))
    if kind is None:
        raise UsageError(f"NIR has no node for {name!r}, whose neurons are {type(neuron).__name__}")
    if "reset" in neuron.choices and neuron.reset != "value":
        raise UsageError(
            f"NIR's neurons are reset to a value; {name!r} has reset 'subtract', which has no equivalent"
        )
    names = _NODES[kind][1]
    left = [one for one in neuron.parameter_names if one not in names.values()]
    for one in left:
        if bool((getattr(layer, one) != 0).any()):
            raise UsageError(f"NIR's {kind} has no {one}; expected 0 for {name!r}")
    values = {theirs: _array(getattr(layer, ours)) for theirs, ours in names.items()}
    return getattr(nir, kind)(**values, metadata=_choices(neuron))


def _recurrent_out(nir: Any, name: str, layer: Recurrent) -> _Made:
    neurons, weight = layer.neurons, layer.recurrent.counted
    made = {
        f"{name}_input": _matrix_out(nir, layer.input),
        f"{name}_neurons": _neurons_out(nir, f"{name}.neurons", _without_delay(neurons)),
        f"{name}_recurrent": nir.Linear(weight=_array(weight)),
    }
    first, cells, back = made
    edges = [(first, cells), (back, cells)]
    if neurons.has_delay:
        # the step that a loop takes anyway counts: a delay of NIR comes on top of nothing
        made[f"{name}_delay"] = nir.Delay(delay=_array(neurons.get_parameter("delay_s")))
        edges += [(cells, f"{name}_delay"), (f"{name}_delay", back)]
    else:
        edges.append((cells, back))
    return made, edges, first, cells


def _without_delay(neurons: Neurons) -> Neurons:
    return Neurons(neurons.neuron, neurons.size) if neurons.has_delay else neurons


def _choices(neuron: Any) -> dict[str, Any]:
    """What is not a parameter, as numbers and text."""
    found = {name: getattr(neuron, name) for name in neuron.choices if name not in ("surrogate", "reset")}
    s = neuron.surrogate
    return {
        **found,
        "surrogate": s.kind,
        "surrogate_height": s.height,
        "surrogate_steepness": s.steepness,
        "surrogate_relative": s.relative,
    }


def _array(value: Tensor) -> Any:
    return value.detach().cpu().numpy().copy()


# ---- in ---------------------------------------------------------------------------------------------------


def from_nir(
    graph: Any,
    *,
    dt_s: float = 1e-3,
    scheme: Scheme = "exact",
    surrogate: Surrogate | None = None,
) -> nn.Sequential:
    """A network of ours from a NIR graph: a chain, parts of which may be recurrent.

    Args:
        graph: ``nir.NIRGraph``; ``nir.read(file)`` gives one.
        dt_s, scheme, surrogate: what the graph does not say; its metadata comes first.

    Returns:
        An ``nn.Sequential`` on (samples, steps, channels), its layers named as the nodes.

    Raises:
        UsageError: nir is not installed, a node without an equivalent, or a graph that is not such a chain.
    """
    nir = _nir()
    if not isinstance(graph, nir.NIRGraph):
        raise UsageError(f"expected a nir.NIRGraph; got {type(graph).__name__}")
    defaults = {"dt_s": dt_s, "scheme": scheme, "surrogate": surrogate or Surrogate()}
    chain = _Chain(graph.nodes, graph.edges)
    layers: dict[str, nn.Module] = {}
    for name in chain.order():
        loop = chain.loop(name)
        layers[_safe(name)] = _layer_in(name, graph.nodes[name], defaults)
        if loop is not None:
            _close(layers, name, loop, graph.nodes)
    return nn.Sequential(OrderedDict(layers))


def _safe(name: str) -> str:
    """Names of modules hold no dots."""
    return name.replace(".", "_")


class _Chain:
    """A graph whose nodes follow each other, but for loops from neurons to themselves."""

    def __init__(self, nodes: Mapping[str, Any], edges: Iterable[tuple[str, str]]) -> None:
        self.nodes = nodes
        self.after: dict[str, list[str]] = {name: [] for name in nodes}
        for source, target in edges:
            if source not in nodes or target not in nodes:
                raise UsageError(
                    f"the graph has an edge from {source!r} to {target!r}, which are not both nodes"
                )
            self.after[source].append(target)
        self.loops = {name: path for name in nodes if (path := self._loop(name)) is not None}
        self.inside = {one for path in self.loops.values() for one in path}

    def _loop(self, name: str) -> list[str] | None:
        """The nodes from neurons back to themselves: a Linear, behind a Delay or not."""
        if type(self.nodes[name]).__name__ not in _NODES:
            return None
        for start in self.after[name]:
            path = [start]
            while type(self.nodes[path[-1]]).__name__ in ("Delay", "Linear") and len(path) < 3:
                follow = self.after[path[-1]]
                if follow == [name] and type(self.nodes[path[-1]]).__name__ == "Linear":
                    return path
                if len(follow) != 1:
                    break
                path.append(follow[0])
        return None

    def loop(self, name: str) -> list[str] | None:
        return self.loops.get(name)

    def order(self) -> list[str]:
        """Nodes between input and output, in the order of the signal."""
        starts = [name for name, node in self.nodes.items() if type(node).__name__ == "Input"]
        if len(starts) != 1:
            raise UsageError(f"expected a graph with one input; got {len(starts)} of them")
        found: list[str] = []
        at = starts[0]
        while type(self.nodes[at]).__name__ != "Output":
            follow = [one for one in self.after[at] if one not in self.inside]
            if len(follow) != 1 or follow[0] in found:
                raise UsageError(f"expected a chain; node {at!r} is followed by {follow or 'nothing'}")
            at = follow[0]
            if type(self.nodes[at]).__name__ != "Output":
                found.append(at)
        unreached = set(self.nodes) - set(found) - self.inside - {starts[0], at}
        if unreached:
            raise UsageError(f"expected a chain; nodes {sorted(unreached)} are not on it")
        return found


def _layer_in(name: str, node: Any, defaults: Mapping[str, Any]) -> nn.Module:
    kind = type(node).__name__
    maker = _MAKERS.get(kind)
    if maker is not None:
        return maker(node, defaults)
    if kind not in _NODES:
        raise UsageError(f"node {name!r} of the graph is a {kind}, which has no equivalent here")
    ours, names = _NODES[kind]
    values = {mine: _vector(name, theirs, getattr(node, theirs)) for theirs, mine in names.items()}
    neuron = ours(**_told(ours, node.metadata, defaults)).with_values({**ours().parameters(), **values})
    size = len(next(iter(values.values())))
    return Filter(neuron, size) if ours in _FILTERS else Neurons(neuron, size)


_FILTERS = (Integrator, LeakyIntegrator, CubaLeakyIntegrator)


def _vector(name: str, parameter: str, value: Any) -> Tensor:
    found = torch.from_numpy(np.array(value))
    if found.dim() != 1 or not found.is_floating_point():
        raise UsageError(
            f"expected {parameter} of node {name!r} to be floating-point numbers, one a neuron; got shape "
            f"{tuple(found.shape)} of {found.dtype}"
        )
    return found


def _told(ours: type[Neuron], metadata: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Choices of a neuron from metadata, or else from the defaults."""
    told: dict[str, Any] = {name: _plain(value) for name, value in (metadata or {}).items()}
    surrogate = defaults["surrogate"]
    if told.get("surrogate") in KINDS:
        surrogate = Surrogate(
            told["surrogate"],
            float(told.get("surrogate_height", 1.0)),
            float(told.get("surrogate_steepness", 1.0)),
            bool(told.get("surrogate_relative", True)),
        )
    found = {name: told.get(name, defaults.get(name)) for name in ours.choices if name != "surrogate"}
    return {name: value for name, value in found.items() if value is not None} | {"surrogate": surrogate}


def _plain(value: Any) -> Any:
    """HDF5 gives bytes and numpy's numbers."""
    if isinstance(value, bytes):
        return value.decode("utf8")
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0 else value


def _matrix_in(node: Any, defaults: Mapping[str, Any]) -> nn.Module:
    weight = torch.from_numpy(np.array(node.weight))
    if weight.dim() != 2:
        raise UsageError(f"expected weights (outputs, inputs); got shape {tuple(weight.shape)}")
    biased = type(node).__name__ == "Affine"
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=biased, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if biased:
            layer.bias.copy_(torch.from_numpy(np.array(node.bias)))
    return layer


def _delay_in(node: Any, defaults: Mapping[str, Any]) -> nn.Module:
    delay = torch.from_numpy(np.array(node.delay))
    told = (node.metadata or {}).get("dt_s", defaults["dt_s"])
    return Delay(delay, len(delay), dt_s=float(_plain(told)))


_MAKERS: dict[str, Callable[[Any, Mapping[str, Any]], nn.Module]] = {
    "Linear": _matrix_in,
    "Affine": _matrix_in,
    "Delay": _delay_in,
}


def _close(layers: dict[str, nn.Module], name: str, loop: list[str], nodes: Mapping[str, Any]) -> None:
    """Join input, neurons and their loop into one recurrent layer under the name of the neurons."""
    cells = layers.pop(_safe(name))
    if not layers or not isinstance(layers[last := list(layers)[-1]], nn.Linear):
        raise UsageError(f"expected a matrix before the recurrent neurons {name!r}")
    if not isinstance(cells, Neurons):
        raise UsageError(
            f"expected spiking neurons in the loop of {name!r}; got {type(nodes[name]).__name__}"
        )
    matrix = layers.pop(last)
    assert isinstance(matrix, nn.Linear)
    recurrent = _matrix_in(nodes[loop[-1]], {})
    assert isinstance(recurrent, nn.Linear)
    if bool(recurrent.weight.diagonal().any()):
        raise UsageError(
            f"neurons {name!r} of the graph excite themselves; expected a diagonal of 0 in {loop[-1]!r}"
        )
    delay = torch.from_numpy(np.array(nodes[loop[0]].delay)) if len(loop) == 2 else None
    layer = Recurrent(
        matrix.in_features, cells.size, cells.neuron, bias=matrix.bias is not None, delay_s=delay
    )
    layer.input, layer.recurrent.weight = matrix, recurrent.weight
    base = name.removesuffix("_neurons")
    layers[_safe(base)] = layer
