"""What tests of figures share."""

from __future__ import annotations

import pytest


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list:
    """The figures drawn, to look into."""
    from matplotlib.figure import Figure

    figures: list = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures
