"""Networks that nobody here wrote, on crossbars: without noise they compute what they always did."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurosim as ns
from neurosim.analog import Deployed, Lot
from neurosim.analog.inputs import Inputs, tensors_in
from neurosim.devices import Hardware
from neurosim.errors import UsageError

from .networks import filled
from .truth import check_equal, hold, of_chip, read, weighted
from .zoo import ZOO, Call, made, named, tokens

pytestmark = [
    # the rows whose ``rides`` is False, counted below
    pytest.mark.filterwarnings("ignore:this network does not treat axis 0"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),  # torch's own
]

networks = pytest.mark.parametrize("name", ZOO)
SMALL = {"array__rows": 32, "array__cols": 24}
IDEAL = ns.hardware("ideal", **SMALL)
MISMATCH = ns.hardware("gaussian-mismatch", **SMALL)
PCM = ns.hardware("pcm-joshi-2020", **SMALL)
NOISY = ns.hardware("ideal", array__output_noise_std=0.02, **SMALL)


def deployed(name: str, hardware: Hardware = IDEAL, **options: Any) -> tuple[Deployed, nn.Module, Call]:
    """The network on the hardware, the original, and its example batch."""
    plain, call = made(name)
    net = ns.deploy(plain, hardware, **{**ZOO[name].options, **options})
    return net, plain, call


@functools.cache
def expected(name: str) -> list[Tensor]:
    """What the original returns."""
    plain, call = made(name)
    with torch.no_grad():
        return tensors_in(call.of(plain))


def matched(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# ---- without noise ----


@networks
def test_without_noise_it_equals_the_original(name: str) -> None:
    net, _, call = deployed(name)
    fused = read(net, call)
    with net.on(Lot(IDEAL)[0:2]) as chips:
        followed = tensors_in(call.of(chips))
    assert any(y.requires_grad for y in followed)
    for outputs in (fused, followed):
        for chip in range(2):
            check_equal(of_chip(outputs, chip), expected(name))


@networks
def test_gradients_are_those_of_the_original(name: str) -> None:
    net, plain, call = deployed(name)
    net, plain, call = net.double(), plain.double(), call.each(Tensor.double)
    ours, theirs = (call.each(lambda x: x.clone().requires_grad_()) for _ in range(2))
    weighted(tensors_in(theirs.of(plain))).backward()
    with net.on(Lot(IDEAL)[0:2]) as chips:
        (weighted(tensors_in(ours.of(chips)), of_chips=True) / 2).backward()
    pairs = [*zip(net.parameters(), plain.parameters(), strict=True)]
    names = [key for key, _ in net.named_parameters()]
    pairs += [*zip(ours.real, theirs.real, strict=True)]
    names += ["input"] * len(ours.real)
    reached = 0
    for key, (a, b) in zip(names, pairs, strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None and b.grad is not None:
            reached += 1
            off, largest = float((a.grad - b.grad).abs().max()), float(b.grad.abs().max())
            assert off <= 1e-7 * max(1e-6, largest), f"{key}: {off} of {largest}"
    assert reached > 0


# ---- still the same network ----


@networks
def test_state_copies_and_types(name: str) -> None:
    net, plain, call = deployed(name)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    assert list(net.state_dict()) == list(before)
    with torch.no_grad():
        check_equal(tensors_in(call.of(net)), expected(name), relative=0)

    fresh, _, _ = deployed(name)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(0.5)
    fresh.load_state_dict(net.state_dict())
    first = read(net, call)
    check_equal(read(fresh, call), first, relative=0)

    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.5)
    check_equal(read(twin, call), first, relative=0)

    double = read(twin.to(torch.float64), call.each(Tensor.double))
    check_equal([y.float() if y.is_floating_point() else y for y in of_chip(double, 1)], expected(name))

    after = plain.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any("neurosim" in type(module).__module__ for module in plain.modules())


@networks
def test_in_training_mode_it_learns_what_the_original_learns(name: str) -> None:
    net, plain, call = deployed(name)
    models = []
    for model in (plain, net):
        model = model.double().train()
        for module in model.modules():
            if hasattr(module, "p") and isinstance(module.p, float):  # of a dropout: torch's are fused
                module.p = 0.0
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0  # type: ignore[assignment]
        models.append(model)
    call = call.each(Tensor.double)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = tensors_in(call.of(plain))
        weighted(theirs).backward()
        torch.manual_seed(0)
        with net.on(Lot(IDEAL)[0]):
            ours = tensors_in(call.of(net))
            weighted(ours).backward()
    check_equal(ours, theirs, relative=1e-7)
    grads = [[p.grad for p in model.parameters() if p.grad is not None] for model in models]
    check_equal(grads[1], grads[0], relative=1e-7)
    check_equal(list(net.state_dict().values()), list(plain.state_dict().values()), relative=1e-9)


# ---- how much is on crossbars ----


@networks
def test_every_matrix_is_on_crossbars_or_known_not_to_be(name: str) -> None:
    net, plain, call = deployed(name)
    read(net, call)  # weights that the options name find their crossbars when they are used
    explanation = net.explain()
    left = net.digital_parameters()
    matrices = [key for key, p in plain.named_parameters() if p.dim() >= 2]
    digital = [key for key in matrices if key in left]
    assert [key for key in digital if not matched(key, ZOO[name].digital)] == []
    assert all(any(fnmatchcase(key, pattern) for key in digital) for pattern in ZOO[name].digital)
    # the table for people says the same
    count = sum(net.get_parameter(key).numel() for key in left)
    assert sum(row.parameters for row in explanation.digital) == count
    assert len(explanation.layers) >= 1
    on = [key for key in matrices if key not in left]
    for key in on:
        module = f"root.{key}".rpartition(".")[0].split(".parametrizations")[0].removeprefix("root.")
        assert any(module in (row.name, row.name.rpartition(".")[0]) for row in explanation.layers), key


@networks
def test_strict_accepts_what_is_named_and_nothing_else(name: str) -> None:
    plain, _ = made(name)
    options = ZOO[name].options
    left = ns.deploy(plain, IDEAL, **options).digital_parameters()
    strict = ns.deploy(plain, IDEAL, strict=True, exclude=left, **options)
    assert strict.digital_parameters() == left
    if left:
        with pytest.raises(UsageError, match="strict"):
            ns.deploy(plain, IDEAL, strict=True, **options)
    else:
        ns.deploy(plain, IDEAL, strict=True, **options)


# ---- noise acts ----


@networks
def test_mismatch_changes_every_network(name: str) -> None:
    net, _, call = deployed(name, MISMATCH)
    found = read(net, call)
    assert all(bool(torch.isfinite(y).all()) for y in found)
    first, second = of_chip(found, 0), of_chip(found, 1)
    for a, b in ((first, second), (first, expected(name)), (second, expected(name))):
        assert not torch.equal(a[0], b[0])


@networks
def test_a_chip_is_the_same_network_with_other_weights(name: str) -> None:
    """Plain torch, with every weight replaced by what its devices hold, gives what the chip gives."""
    net, plain, call = deployed(name, MISMATCH.with_("array.bias", "digital"))
    found = of_chip(read(net, call), 1)
    with torch.no_grad():
        hold(plain, net, chip=1)
        check_equal(found, tensors_in(call.of(plain)), floor=1e-3)
    assert all(net._bench.rides.values()) == ZOO[name].rides


class Places(nn.Module):
    """Words and their places, which have no batch axis, before a head with small outputs."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(29, 8), nn.Embedding(6, 8), nn.Linear(8, 3)
        self.axes = axes

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.shape[1]).reshape((1,) * (self.axes - 1) + (-1,))
        return self.head(self.words(words) + self.places(places))


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-8])
def test_chips_never_mix_however_small_the_outputs(axes: int, size: float) -> None:
    plain = filled(Places(axes))
    with torch.no_grad():
        for parameter in plain.head.parameters():
            parameter.mul_(size)
    net, call = ns.deploy(plain, MISMATCH), Call((tokens(3, 6),), {})
    together = read(net, call, chips=3)
    for chip in range(3):
        with torch.no_grad(), net.on(Lot(MISMATCH)[chip]) as alone:
            check_equal(of_chip(together, chip), [call.of(alone)[0]], floor=0.0)


def test_most_of_the_zoo_rides_the_batch_axis() -> None:
    assert len(ZOO) >= 30
    assert sum(row.rides for row in ZOO.values()) >= 0.8 * len(ZOO)


@networks
def test_converters_and_ages_on_any_network(name: str) -> None:
    net, _, call = deployed(name, PCM)
    net.calibrate(*call.args, **call.kwargs)
    found = {}
    for chips in ([1], [0, 1]):
        with torch.no_grad(), net.on(Lot(PCM)[chips], time_s=3600.0) as on_chips:
            outputs = tensors_in(call.of(on_chips))
        found[len(chips)] = of_chip(outputs, -1)
    check_equal(found[1], found[2], relative=0)
    ideal = expected(name)[0]
    error = (found[1][0] - ideal).norm() / (ideal - ideal.mean()).norm()
    assert 0 < float(error) < 1


@networks
def test_white_noise_does_not_depend_on_batch_size(name: str) -> None:
    if not ZOO[name].rides:
        pytest.skip("some of its layers read once a batch, not once a sample")
    net, _, call = deployed(name, NOISY)
    net.calibrate(*call.args, **call.kwargs)
    whole = read(net, call)
    inputs = Inputs.of(*call)
    with torch.no_grad(), net.on(Lot(NOISY)[0:2]) as chips:
        pieces = [tensors_in(piece.call(chips)) for piece in inputs.pieces(1)]
    check_equal([torch.cat(ys, dim=1) for ys in zip(*pieces, strict=True)], whole)


FOLDED = {
    "DCGAN generator": 2,
    "ResNet": 10,
    "MobileNetV2": 11,
    "MobileNetV3": 10,
    "ShuffleNet, channel shuffle": 10,
    "ShuffleNetV2": 10,
    "DenseNet": 5,
    "SE-ResNet": 6,
    "SKNet": 7,
    "ShaResNet, shared convolutions": 8,
    "OctResNet": 1,
    "DRN, dilated": 8,
}


@pytest.mark.parametrize(("name", "count"), FOLDED.items(), ids=FOLDED.keys())
def test_folded_normalisations_change_nothing(name: str, count: int) -> None:
    net, _, call = deployed(name, fold=True)
    assert len(net.options["fold"]) == count
    for chip in range(2):
        check_equal(of_chip(read(net, call), chip), expected(name))


# ---- half precision ----


@networks
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_as_good_as_torchs(name: str, dtype: torch.dtype) -> None:
    net, plain, call = deployed(name)
    net, plain, call = net.to(dtype), plain.to(dtype), call.each(lambda x: x.to(dtype))
    with torch.no_grad():
        theirs = tensors_in(call.of(plain))
        check_equal(tensors_in(call.of(net)), theirs, relative=0)
        with net.on(Lot(IDEAL)[0:2]) as chips:
            ours = of_chip(tensors_in(call.of(chips)), 1)
    for a, b, exact in zip(ours, theirs, expected(name), strict=True):
        assert a.dtype == b.dtype
        if exact.is_floating_point():
            # crossbars sum in float32: the error is that of torch, or what rounding does to it
            allowed = 2 * float((b.float() - exact).abs().max()) + torch.finfo(dtype).eps
            assert float((a.float() - exact).abs().max()) <= allowed * max(1.0, float(exact.abs().max()))


# ---- what cannot be rewritten ----


def _scripted(net: nn.Module, x: Tensor) -> Any:
    return torch.jit.script(net)


def _traced(net: nn.Module, x: Tensor) -> Any:
    return torch.jit.trace(net, x)


def _exported(net: nn.Module, x: Tensor) -> Any:
    return torch.export.export(net, (x,))


def _graph(net: nn.Module, x: Tensor) -> Any:
    return torch.export.export(net, (x,)).module()


def _unflattened(net: nn.Module, x: Tensor) -> Any:
    return torch.export.unflatten(torch.export.export(net, (x,)))


def _compiled(net: nn.Module, x: Tensor) -> Any:
    return torch.compile(net)


FIXED = {
    "TorchScript": (_scripted, "cannot deploy a TorchScript module"),
    "trace": (_traced, "cannot deploy a TorchScript module"),
    "ExportedProgram": (_exported, "deploy the network it was exported from"),
    "graph of an export": (_graph, "deploy the network it was made from"),
    "unflattened export": (_unflattened, "deploy the network it was"),
    "compiled": (_compiled, "cannot deploy a compiled module"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize(("make", "sentence"), FIXED.values(), ids=FIXED.keys())
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("name", named("DCGAN generator", "subclass of a layer"))
def test_fixed_code_is_refused(name: str, make: Any, sentence: str) -> None:
    plain, call = made(name)
    fixed = make(plain, call.args[0])
    with pytest.raises(UsageError, match=sentence):
        ns.deploy(fixed, IDEAL)
    if isinstance(fixed, nn.Module):
        with pytest.raises(UsageError, match=sentence):
            ns.deploy(nn.Sequential(fixed, nn.Linear(5, 2)), IDEAL)


@pytest.mark.parametrize("name", named("ResNet", "DCGAN generator", "LoRA", "DenseNet"))
def test_a_graph_of_layers_is_a_network(name: str) -> None:
    plain, call = made(name)
    net = ns.deploy(torch.fx.symbolic_trace(plain), IDEAL)
    assert {*net.digital_parameters()} == {*ns.deploy(plain, IDEAL).digital_parameters()}
    check_equal(of_chip(read(net, call), 1), expected(name))


# ---- several processes ----

_WORKER = """
import copy, sys
import torch, torch.distributed as dist
from torch import nn
import neurosim as ns

rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
torch.manual_seed(0)
plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
x, hardware = torch.randn(8, 2, 6, 6), ns.hardware("gaussian-mismatch", array__rows=32, array__cols=24)
net = ns.deploy(plain, hardware)
chip, whole = ns.Lot(hardware)[3], copy.deepcopy(net)
shared = nn.parallel.DistributedDataParallel(net)
for bench in (False, True):
    for model, inputs in ((shared, x[rank::2]), (whole, x)):
        model.zero_grad()
        if bench:
            with getattr(model, "module", model).on(chip):
                model(inputs).square().mean().backward()
        else:
            model(inputs).square().mean().backward()
    for ours, theirs in zip(net.parameters(), whole.parameters()):
        assert float((ours.grad - theirs.grad).abs().max()) <= 1e-6 * float(theirs.grad.abs().max())
    print("bench" if bench else "off", float(sum(p.grad.abs().sum() for p in net.parameters())))
dist.destroy_process_group()
"""


def test_two_processes_share_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WORKER]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    seen = []
    for worker in workers:
        try:
            out, err = worker.communicate(timeout=120)
        finally:
            worker.kill()
        assert worker.returncode == 0, err
        seen.append([line.split() for line in out.splitlines()])
    assert seen[0] == seen[1]
    assert [line[0] for line in seen[0]] == ["off", "bench"]
    assert seen[0][0][1] != seen[0][1][1]
