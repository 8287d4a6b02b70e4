"""Looking at a device and fitting one's own, from the command line."""

from __future__ import annotations


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
