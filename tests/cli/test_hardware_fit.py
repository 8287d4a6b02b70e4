"""Looking at a device and fitting one's own, from the command line."""

from __future__ import annotations

import numpy as np
import pytest


def test_show_draws_into_the_folder_or_where_told(neurosim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = neurosim("hardware", "show", "rram-wan-2022")
    drawn = neurosim("hardware", "show", "rram-wan-2022", "--plot")
    assert drawn.out == plain.out
    assert "picture: rram-wan-2022.svg" in drawn.err
    assert (tmp_path / "rram-wan-2022.svg").is_file()
    told = neurosim("hardware", "show", "ideal", "--plot", "here.png", "--json").json
    assert told["picture"] == "here.png"
    assert (tmp_path / "here.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_without_plot_is_refused(neurosim):
    assert "but not --plot" in neurosim("hardware", "show", "ideal", "x.svg").error
    assert ".svg or .png" in neurosim("hardware", "show", "ideal", "--plot", "x.pdf").error


def measure(path, levels=(2, 6, 10, 15, 20), times=(1, 10, 100)):
    """A device of sigma = 0.3 + 0.8 x µS and ν = 0.05 ± 0.01."""
    rng = np.random.default_rng(0)
    rows = ["target_us,measured_us,time_s,device"]
    for level in levels:
        for device in range(60):
            g, nu = level + (0.3 + 0.8 * level / 20) * rng.normal(), 0.05 + 0.01 * rng.normal()
            rows += [f"{level},{g * t**-nu},{t},{level}-{device}" for t in times]
    path.write_text("\n".join(rows))
    return path


def test_fit_writes_a_hardware_that_checks_and_draws(neurosim, tmp_path):
    data, out = measure(tmp_path / "m.csv"), tmp_path / "mine.toml"
    answer = neurosim("hardware", "fit", data, "--out", out, "--plot", tmp_path / "m.svg", "--json").json
    assert answer["name"] == "mine"
    assert answer["drift"]["mean"][0] == pytest.approx(0.05, abs=0.003)
    assert (tmp_path / "m.svg").read_bytes().startswith(b"<?xml")
    assert neurosim("hardware", "check", out).code == 0
    shown = neurosim("hardware", "show", out, "--json").json
    assert shown["device"]["kind"] == "measured"
    assert "read noise was not fitted" in shown["source"]["covers"]
    said = neurosim("hardware", "fit", data, "--out", out, "--name", "lab 7", "--g-max", "25e-6").out
    assert "drift exponent, mean" in said and "D'Agostino" in said
    assert neurosim("hardware", "show", out, "--json").json["name"] == "lab 7"


def test_a_fitted_device_is_evaluated_on_chips(neurosim, runs, tmp_path):
    out = tmp_path / "mine.toml"
    assert neurosim("hardware", "fit", measure(tmp_path / "m.csv"), "--out", out).code == 0
    found = neurosim(
        "evaluate",
        runs["a"],
        "--hardware",
        out,
        "--chips",
        "3",
        "--times",
        "1s,100s",
        "--out",
        tmp_path / "e",
    )
    assert found.code == 0, found.err


def test_refusals_leave_no_file(neurosim, tmp_path):
    out = tmp_path / "mine.toml"
    few = measure(tmp_path / "few.csv", levels=(2, 20))
    assert "2 target levels" in neurosim("hardware", "fit", few, "--out", out).error
    good = measure(tmp_path / "m.csv")
    assert "half of the range" in neurosim("hardware", "fit", good, "--out", out, "--g-max", "25").error
    assert "ends in .toml" in neurosim("hardware", "fit", good, "--out", tmp_path / "x.txt").error
    assert ".svg or .png" in neurosim("hardware", "fit", good, "--out", out, "--plot", "x.pdf").error
    assert not out.exists()
