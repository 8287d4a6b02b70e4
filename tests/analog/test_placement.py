"""What of a network goes on crossbars: patterns, tied, computed and named weights, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import neurosim as ns
from neurosim.analog import LAYERS, Deployed, OnCrossbars, deploy, register
from neurosim.analog.mixing import mixed_in
from neurosim.analog.operators import Matmul
from neurosim.errors import UsageError

from .networks import filled, lot, read, small, some

IDEAL = ns.hardware("ideal", **small(7, 5))
NOISY = ns.hardware("gaussian-mismatch", **small(7, 5))


def network() -> nn.Sequential:
    plain = nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4)), nn.Linear(4, 3)
    )
    filled(plain)
    return plain


def on(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, OnCrossbars)]


# ---- patterns ----


@pytest.mark.parametrize(
    "options,expected",
    [
        ({}, ["0", "2.0", "3"]),
        ({"include": ["2.*"]}, ["2.0"]),
        ({"include": ["*.weight"]}, ["0", "2.0", "3"]),
        ({"exclude": ["3.weight"]}, ["0", "2.0"]),
        ({"exclude": [":first", ":last"]}, ["2.0"]),
        ({"include": [":last", "0"], "exclude": ["0"]}, ["3"]),
        ({"exclude": ["*"]}, []),
    ],
)
def test_patterns_choose_layers(options: dict[str, Any], expected: list[str]) -> None:
    net = deploy(network(), NOISY, **options)
    assert on(net) == expected
    assert [row.name for row in net.explain().layers] == expected
    excluded = [row.name for row in net.explain().digital if row.why == "excluded"]
    assert sorted(excluded + expected) == ["0", "2.0", "3"]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"include": ["layer*"]}, r"unknown layer or pattern 'layer\*'"),
        ({"exclude": ["2.o"]}, r"unknown layer or pattern '2.o': did you mean"),
        ({"include": "2.*"}, r"expected a list of patterns, such as include=\['layer1.\*'\]; got '2.\*'"),
        ({"weights": ["2.9"]}, r"unknown parameter '2.9'"),
        ({"weights": ["0.weight"]}, r"0.weight is on a crossbar already: leave it out of weights"),
        ({"weights": ["2.1.weight"]}, r"expected a matrix or a kernel .*; 2.1.weight has the shape \(4,\)"),
        ({"products": "int8"}, r"unknown type of products 'int8'"),
        ({"fold": [("0", "1")]}, r"cannot fold '1': expected a batch normalisation .*; got ReLU"),
        ({"fold": [("2.1", "1")]}, r"cannot fold '1' into '2.1': that is no layer on crossbars"),
    ],
)
def test_wrong_options_are_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        deploy(network(), NOISY, **options)
    assert "\n" not in str(caught.value)


def test_strict_refuses_to_leave_parameters_digital() -> None:
    with pytest.raises(UsageError, match=r"strict: the parameter '2.1.weight' and 1 more would stay digital"):
        deploy(network(), NOISY, strict=True)
    deploy(network(), NOISY, strict=True, exclude=["2.1"])
    deploy(network(), NOISY, strict=True, exclude=["2.1.*", ":first"])
    varied = NOISY.with_("parameters", {"2.1.*": {"relative_std": 0.1}})
    deploy(network(), varied, strict=True)


def test_a_subclass_with_its_own_forward_stays_digital_and_says_why() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Renamed(nn.Linear):
        pass

    net = deploy(nn.Sequential(Scaled(4, 3), Renamed(3, 2)), NOISY)
    assert on(net) == ["1"]
    (row,) = (row for row in net.explain().digital if row.parameters)
    assert (row.name, row.why) == ("0", "its forward is not that of Linear")
    assert "its forward is not that of Linear" in str(net.explain())


# ---- what comes back ----


@pytest.mark.filterwarnings("ignore:this network does not treat axis 0")
def test_plain_gives_the_network_back() -> None:
    plain = nn.Sequential(
        nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(20, 6), nn.LayerNorm(6)
    )
    filled(plain)
    hardware = NOISY.with_("parameters", {"4.weight": {"relative_std": 0.1}})
    net = deploy(plain, hardware, fold=True)
    back = net.plain()
    assert [type(m) for m in back.modules()] == [type(m) for m in plain.modules()]
    assert not any(mixed_in(m) for m in back.modules())
    assert [set(vars(a)) for a in back.modules()] == [set(vars(b)) for b in plain.modules()]
    x = some(5, 3, 6)
    assert torch.equal(back(x), plain(x))
    again = deploy(back, net.hardware, **net.options)
    chips = lot(net)[[0, 17]]
    assert torch.equal(read(again, chips, x), read(net, chips, x))


# ---- tied and computed weights ----


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(23, 8)
        self.head = nn.Linear(8, 23, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(x)))


@pytest.mark.parametrize("scaling", ["per-layer", "per-column"])
def test_tied_weights_are_one_set_of_devices(scaling: str) -> None:
    hardware = ns.hardware("gaussian-mismatch", array__scaling=scaling, **small(7, 5))
    plain = Tied()
    filled(plain)
    net = deploy(plain, hardware)
    chips = lot(net)[[3]]
    with torch.no_grad(), net.on(chips):
        entries = torch.arange(23)
        rows = net.embedding(entries)  # each row as the embedding reads it
        columns = net.head(torch.eye(8))  # each column as the head reads it
    torch.testing.assert_close(columns, rows.t(), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(rows, plain.embedding.weight, rtol=1e-3)
    first, second = net.explain().layers
    assert (first.shares, second.shares) == ("", "embedding")
    assert (second.tiles, second.devices) == (0, 0)
    assert first.devices == 2 * 23 * 8


@pytest.mark.parametrize(
    "make",
    [
        lambda: parametrizations.weight_norm(nn.Linear(6, 5)),
        lambda: parametrizations.spectral_norm(nn.Conv1d(6, 5, 2)),
        lambda: parametrizations.orthogonal(nn.Linear(6, 6)),
    ],
)
def test_parametrised_weights_are_programmed_as_computed(make: Any) -> None:
    plain = make().eval()
    net = deploy(plain, NOISY)
    assert net.digital_parameters() == []
    chips = lot(net)[[0, 17]]
    x = some(4, 6) if isinstance(plain, nn.Linear) else some(4, 6, 3)
    fixed = make().eval()
    fixed.load_state_dict(plain.state_dict())
    parametrize.remove_parametrizations(fixed, "weight")
    assert torch.equal(read(net, chips, x), read(deploy(fixed, NOISY), chips, x))
    with net.on(chips) as on_chips:
        on_chips(x).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in net.parameters())


class LowRank(nn.Module):
    """LoRA as a parametrisation: W + B A."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(some(2, inputs, name="a")), nn.Parameter(some(outputs, 2, name="b"))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


@pytest.mark.parametrize("merged", [True, False])
def test_low_rank_sums_are_one_crossbar_or_three(merged: bool) -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(6, 5)
            self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    plain: nn.Module = filled(nn.Linear(6, 5)) if merged else filled(Beside())
    if merged:
        parametrize.register_parametrization(plain, "weight", LowRank(5, 6))
    x = some(4, 6)
    net = deploy(plain, IDEAL, strict=True)
    assert len(net.explain().layers) == (1 if merged else 3)
    torch.testing.assert_close(read(net, lot(net)[0:2], x)[1], plain(x).detach(), rtol=1e-5, atol=1e-5)
    for parameter in (plain.base if not merged else plain).parameters(recurse=not merged):
        parameter.requires_grad_(False)  # the base is frozen, as LoRA has it
    net = deploy(plain, NOISY)
    with net.on(lot(net)[0]) as chips:
        chips(x).square().sum().backward()
    trained = [name for name, p in net.named_parameters() if p.grad is not None]
    assert trained
    assert all(p.grad is None for p in net.parameters() if not p.requires_grad)


def test_the_old_weight_norm_deploys_after_a_forward() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        plain = nn.utils.weight_norm(nn.Linear(6, 5))
    plain(some(2, 6))  # leaves a weight that torch itself refuses to copy
    net = deploy(plain, IDEAL)
    x = some(4, 6)
    torch.testing.assert_close(read(net, lot(net)[0:2], x)[1], plain(x).detach())


# ---- weights that users name ----


class Projection(nn.Module):
    """(inputs, outputs) and addmm, as GPT-2 has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(some(inputs, outputs, name="w") / 3)
        self.bias = nn.Parameter(some(outputs, name="b"))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return y.reshape(*x.shape[:-1], self.weight.size(1))


class Own(nn.Module):
    """One product of each kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        shape = {"kernel": (6, 4, 3), "table": (9, 6), "left": (5, 4)}.get(kind, (4, 6))
        self.w = nn.Parameter(some(*shape, name=kind) / 2)

    def forward(self, x: Tensor) -> Tensor:
        products = {
            "linear": lambda: F.linear(x, self.w.t()),
            "matmul": lambda: x @ self.w,
            "transposed": lambda: torch.matmul(x, self.w.T.T),
            "left": lambda: (self.w @ x.unsqueeze(-1)).squeeze(-1),
            "kernel": lambda: F.conv1d(x.unsqueeze(-1).expand(-1, 4, 5), self.w, padding=1, stride=2),
            "table": lambda: F.embedding((3 * x.detach()).long() % 9, self.w),
        }
        return products[self.kind]()


@pytest.mark.parametrize("kind", ["linear", "matmul", "transposed", "left", "kernel", "table"])
def test_a_named_weight_is_read_wherever_its_module_multiplies_by_it(kind: str) -> None:
    plain, x = Own(kind).eval(), some(5, 4)
    net = deploy(plain, IDEAL, weights=["w"], strict=True)
    assert torch.equal(net(x), plain(x))
    torch.testing.assert_close(read(net, lot(net)[0:3], x)[2], plain(x).detach(), rtol=1e-6, atol=1e-6)
    noisy = deploy(plain, ns.hardware("pcm-aihwkit-default", **small(7, 5)), weights=["w"], calibration=x)
    (row,) = noisy.explain().layers
    assert (row.name, row.kind, row.shape) == ("root.w", "Own", tuple(plain.w.shape))
    found = read(noisy, lot(noisy)[0:2], x)
    assert not torch.allclose(found[0], found[1])
    with noisy.on(lot(noisy)[0:2]) as chips:
        chips(x).square().sum().backward()
    assert float(noisy.w.grad.abs().max()) > 0


def test_named_weights_equal_the_linear_layer_they_are() -> None:
    plain = nn.Sequential(Projection(6, 5))
    layer = nn.Linear(6, 5)
    with torch.no_grad():
        layer.weight.copy_(plain[0].weight.t())
        layer.bias.copy_(plain[0].bias)
    hardware = ns.hardware("pcm-aihwkit-default", **small(7, 5))
    x = some(4, 6)
    named = deploy(plain, hardware, weights=["0.weight"], calibration=x)
    usual = deploy(nn.Sequential(layer), hardware, calibration=x)
    chips = lot(usual)[[0, 17]]
    torch.testing.assert_close(read(named, chips, x), read(usual, chips, x))


def test_a_named_weight_used_otherwise_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.how, self.w = how, nn.Parameter(some(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.w if self.how == "times" else (x @ self.w) @ self.w.t()

    for how, message in (
        ("times", r"cannot put 'root.w' on a crossbar: its module uses it in .*mul"),
        ("both ways", r"its module uses it in products of two kinds"),
    ):
        net = deploy(Odd(how), NOISY, weights=["w"])
        net(some(4, 4))
        with torch.no_grad(), net.on(lot(net)[0]) as chips, pytest.raises(UsageError, match=message):
            chips(some(4, 4))


def test_a_registered_layer_goes_on_crossbars() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(some(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            return 2 * F.linear(x, self.w)

    class DoubledOnCrossbars(OnCrossbars):
        kind = Doubled

        @staticmethod
        def place(site: Any) -> dict[str, Any]:
            return {"w": site.crossbar("w", Matmul())}

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self._product("w", x, self._weight_of("w"), None)

    with pytest.raises(UsageError, match="expected a subclass of OnCrossbars that names its kind"):
        register(Doubled)  # type: ignore[arg-type]
    register(DoubledOnCrossbars)
    try:
        plain, x = Doubled(), some(3, 4)
        net = deploy(plain, IDEAL)
        torch.testing.assert_close(read(net, lot(net)[0:2], x)[1], plain(x).detach())
        assert net.explain().layers[0].kind == "Doubled"
    finally:
        del LAYERS[Doubled]


# ---- several inputs ----


def test_networks_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Embedding(9, 5)

        def forward(
            self, x: Tensor, words: Tensor, *, scale: float, mask: Tensor | None = None
        ) -> dict[str, Tensor]:
            y = self.a(x) + self.b(words)
            return {"y": scale * y, "masked": y if mask is None else y * mask}

    plain, x, words, mask = Two().eval(), some(5, 6), torch.arange(5), some(5, 1)
    net = deploy(plain, ns.hardware("pcm-aihwkit-default", **small(7, 5)))
    net.calibrate(x, words, scale=2.0)
    with torch.no_grad(), net.on(lot(net)[0:3]) as chips:
        together = chips(x, words, scale=2.0, mask=mask)
    assert together["masked"].shape == (3, 5, 5)
    assert all(net._bench.rides.values())
    with torch.no_grad(), net.on(lot(net)[2]) as chips:
        alone = chips(x, words, scale=2.0, mask=mask)
    assert torch.equal(alone["masked"][0], together["masked"][2])
    assert net.chip_block(x, words, scale=1.0) >= 1
    with net.on(lot(net)[0]) as chips, pytest.raises(UsageError, match="expected inputs with a batch axis"):
        chips(scale=2.0)


# ---- refusals ----


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fixed_programs_are_refused() -> None:
    plain, x = network(), some(2, 6)
    scripted = torch.jit.script(plain)
    with pytest.raises(UsageError, match="cannot deploy a TorchScript module: its code is fixed"):
        deploy(scripted, NOISY)
    exported = torch.export.export(plain, (x,))
    with pytest.raises(UsageError, match="got ExportedProgram: deploy the network it was exported from"):
        deploy(exported, NOISY)  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=r"cannot deploy a graph of single operators, such as torch\.export makes"
    ):
        deploy(exported.module(), NOISY)
    with pytest.raises(
        UsageError, match="cannot deploy a compiled module: deploy the network, then compile it"
    ):
        deploy(torch.compile(plain), NOISY)
    with pytest.raises(UsageError, match=r"expected weights to put on crossbars; 0\.weight has no size yet"):
        deploy(nn.Sequential(nn.LazyLinear(3)), NOISY)


def test_an_embedding_that_rewrites_itself_stays_digital() -> None:
    net = deploy(nn.Sequential(nn.Embedding(5, 3, max_norm=1.0)), NOISY)
    assert isinstance(net, Deployed)
    (row,) = net.explain().digital
    assert row.why == "max_norm rewrites its weights at each use"


# ---- hardware by layer, parameters by chip ----


def test_layers_of_other_hardware() -> None:
    plain, x = network(), some(5, 6)
    mixed = ns.hardware("ideal", layers={"2.*": {"device.kind": "gaussian", "array.rows": 2}})
    net = deploy(plain, mixed)
    tiles = {row.name: row.tiles for row in net.explain().layers}
    assert tiles == {"0": 1, "2.0": 3, "3": 1}
    assert "In layers '2.*' instead:" in str(net.explain())
    by_hand = deploy(plain, ns.hardware("ideal", device__kind="gaussian", array__rows=2), include=["2.*"])
    torch.testing.assert_close(read(net, lot(net)[0:3], x), read(by_hand, lot(by_hand)[0:3], x))
    with pytest.raises(
        UsageError, match=r"unknown layer on crossbars that layers.'4.\*' of the hardware names"
    ):
        deploy(plain, ns.hardware("ideal", layers={"4.*": {"array.rows": 2}}))


def test_digital_biases_can_vary_from_chip_to_chip() -> None:
    plain, x = network(), torch.zeros(1, 6)
    net = deploy(plain, ns.hardware("ideal", parameters={"0.bias": {"relative_std": 0.2}}))
    with torch.no_grad(), net.on(lot(net)[0:500]):
        biases = net[0](torch.zeros(500, 6)).detach()
    assert [row.name for row in net.explain().sampled] == ["0.bias"]
    ratio = biases / plain[0].bias.detach()
    assert abs(float(ratio.mean()) - 1) < 5 * 0.2 / 2500**0.5
    assert abs(float(ratio.std()) - 0.2) < 5 * 0.2 / 5000**0.5
    assert read(net, lot(net)[0:2], x).shape == (2, 1, 3)
