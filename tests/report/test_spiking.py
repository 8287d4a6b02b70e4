"""Figures of the inside of a spiking network: the right spikes, potentials, rates and panels; small files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import torch

import neurosim as ns
from neurosim import models
from neurosim.errors import UsageError
from neurosim.evaluation.inside import OnChips, changed, look, look_on
from neurosim.models.spiking import CubaLif, Recurrent
from neurosim.report.spiking import chips_figure, look_figure

NAMES = ("N", "L", "R", "$V_{<b>")


@pytest.fixture(scope="module")
def seen() -> tuple:
    """A sample, the network on it, and on three chips."""
    net = models.create("lsnn-ecg", num_classes=4, in_chans=2, image_size=100).eval()
    hardware = ns.hardware("dynapse-se2")
    x = 1.5 * torch.randn(1, 100, 2, generator=torch.Generator().manual_seed(2))
    return x[0], look(net, x), look_on(ns.deploy(net, hardware), x, ns.Lot(hardware)[0:3])


def strokes(axes) -> list[int]:
    """Spikes in a raster, by colour."""
    return [len(patch.get_path().vertices) // 2 for patch in axes.patches]


def titled(figure, start: str):
    (found,) = (axes for axes in figure.axes if axes.get_title(loc="left").startswith(start))
    return found


def test_a_stroke_a_spike_and_a_dot_where_a_potential_passes(tmp_path, drawn: list, seen: tuple):
    x, found, _ = seen
    path = look_figure(
        x, found, path=tmp_path / "x.svg", title="one beat", target=2, classes=NAMES, neurons=[7, 40]
    )
    layer, record = found.layer(), found.layer().record
    raster = titled(drawn[0], "hidden.neurons")
    assert strokes(raster) == [layer.spikes] and f"{layer.spikes:,} spikes" in raster.get_title(loc="left")
    middle = raster.patches[0].get_path().vertices.reshape(-1, 2, 2).mean(1)
    at, neuron = record.spikes.nonzero(as_tuple=True)
    np.testing.assert_allclose(middle, np.stack([at, neuron], 1), atol=1e-9)  # steps of a millisecond
    for number in (7, 40):
        axes = titled(drawn[0], f"neuron {number}:")
        level, v, dots = axes.lines
        np.testing.assert_array_equal(v.get_ydata(), record.potentials[:, number].double())
        np.testing.assert_array_equal(level.get_ydata(), record.thresholds[:, number].double())
        np.testing.assert_array_equal(dots.get_xdata(), record.spikes[:, number].nonzero().flatten())
        assert np.all(dots.get_ydata() > level.get_ydata()[record.spikes[:, number] > 0])
    ET.fromstring(path.read_bytes())
    assert path.stat().st_size < 300_000


def test_input_rates_and_scores(tmp_path, drawn: list, seen: tuple):
    x, found, _ = seen
    look_figure(x, found, path=tmp_path / "x.png", title="one beat", target=2, classes=NAMES)
    figure, layer = drawn[0], found.layer()
    lines = titled(figure, "input: 2 channels").lines
    for line, channel in zip(lines, x.T, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), channel.double())
    rates = titled(figure, f"mean {float(layer.rates_hz.mean()):.3g} Hz")
    assert f"silent {100 * layer.silent:.3g} %" in rates.get_title(loc="left")
    assert sum(bar.get_height() for bar in rates.patches) == 256
    scores = titled(figure, "true R")
    assert [bar.get_width() for bar in scores.patches] == pytest.approx(found.scores.tolist())
    assert [tick.get_text() for tick in scores.get_yticklabels()] == list(NAMES)
    shown = [axes.get_title(loc="left").partition(":")[0] for axes in figure.axes]
    most = [f"neuron {number}" for number in layer.most_active(3)]
    assert [title for title in shown if title.startswith("neuron ")] == most


def test_chips_beside_the_network(tmp_path, drawn: list, seen: tuple):
    _, found, on_chips = seen
    path = chips_figure(found, on_chips, path=tmp_path / "c.svg", title="on chips", target=2, classes=NAMES)
    before, after = found.layer(), on_chips.looks[0].layer()
    missing, new = changed(before, after)
    figure = drawn[0]
    assert strokes(titled(figure, "off chip")) == [before.spikes]
    chip = titled(figure, "chip 0")
    assert strokes(chip) == [after.spikes - new, new]
    assert f"{new:,} new, {missing:,} missing" in chip.get_title(loc="left")
    labels = titled(figure, "true R")
    counts = [sum(one.predicted == k for one in on_chips.looks) for k in range(4)]
    assert [bar.get_width() for bar in labels.patches] == counts
    tau = titled(figure, "neurons.tau_mem_s 0.02")
    assert "(20 %)" in tau.get_title(loc="left")
    outline = tau.patches[0].get_path().vertices  # two corners on top of each bin
    assert outline[:, 1].sum() / 2 == 3 * 256
    assert len(figure.axes) == 3 + len(on_chips.parameters)
    assert path.stat().st_size < 400_000


def test_only_what_differs_has_a_panel_and_eight_at_most(tmp_path, drawn: list, seen: tuple):
    _, found, on_chips = seen
    none = OnChips(on_chips.numbers, on_chips.looks, ())
    chips_figure(found, none, path=tmp_path / "c.svg", title="on chips", target=2)
    assert len(drawn[0].axes) == 3
    same = replace(on_chips.parameters[-1], values=on_chips.parameters[-1].nominal.expand(3, -1, -1))
    chips_figure(
        found, replace(on_chips, parameters=(same,)), path=tmp_path / "c.svg", title="on chips", target=2
    )
    assert len(drawn[1].axes) == 3
    many = OnChips(on_chips.numbers, on_chips.looks, on_chips.parameters * 2)
    chips_figure(found, many, path=tmp_path / "c.svg", title="on chips", target=2)
    assert len(drawn[2].axes) == 3 + 8
    assert any("first 8 of 14 parameters" in text.get_text() for text in drawn[2].texts)


def test_synapses_many_channels_and_silence(tmp_path, drawn: list):
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = Recurrent(40, 12, CubaLif(v_threshold=1e6))

        def forward(self, x):
            return self.hidden(x).mean(1)

    x = torch.randn(1, 30, 40)
    found = look(Net(), x)
    look_figure(x[0], found, path=tmp_path / "x.svg", title="nothing", target=1, neurons=list(range(6)))
    (image,) = titled(drawn[0], "input: 40 channels").images
    assert image.get_array().shape == (40, 30)
    assert strokes(titled(drawn[0], "hidden.neurons: 0 spikes")) == [0]
    # an input that is not the current of the synapse is drawn too
    below = [axes for axes in drawn[0].axes if axes.lines and not axes.get_title(loc="left")]
    assert [len(axes.lines) for axes in below] == [3] * 6


def test_same_numbers_same_bytes(tmp_path, seen: tuple):
    x, found, on_chips = seen
    one, two = (look_figure(x, found, path=tmp_path / f"{k}.svg", title="$x", target=0) for k in "ab")
    assert one.read_bytes() == two.read_bytes()
    one, two = (chips_figure(found, on_chips, path=tmp_path / f"{k}.svg", title="x", target=0) for k in "cd")
    assert one.read_bytes() == two.read_bytes()


def test_wrong_use_is_refused(tmp_path, seen: tuple):
    x, found, on_chips = seen
    for neurons, sentence in (
        ([256], "the layer hidden.neurons has neurons 0 to 255; got 256"),
        ([3, 3], "expected each neuron once; got 3, 3"),
        (range(7), "the figure shows 1 to 6 neurons; got 7"),
    ):
        with pytest.raises(UsageError, match=sentence):
            look_figure(x, found, path=tmp_path / "x.svg", title="x", target=0, neurons=neurons)
    with pytest.raises(UsageError, match=r"ends in \.svg or \.png"):
        look_figure(x, found, path=tmp_path / "x.pdf", title="x", target=0)
    with pytest.raises(UsageError, match=r"expected a layer of neurons, hidden\.neurons; got 'top'"):
        chips_figure(found, on_chips, path=tmp_path / "x.svg", title="x", target=0, layer="top")
