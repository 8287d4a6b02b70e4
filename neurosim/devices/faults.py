"""What is broken on a chip: stuck devices, broken lines, clustered defects, and gradients over the die."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from neurosim.devices.device import Device, Effect, Frozen, Real, Whole, percent, without_defaults
from neurosim.devices.fault_map import check, digest_of

if TYPE_CHECKING:
    from torch import Tensor

    from neurosim.random import Draws

_LOW, _HIGH, _OPEN = 1, 2, 3
_STATES = {"low": _LOW, "high": _HIGH, "open": _OPEN}
_LATER = ("map_file", "map_sha256", "remapping", "spare_columns", "pair_compensation")
_FINEST_CHANCE = 2.0**-25  # half the step of a uniform draw


class OnTiles(Protocol):
    """A block-diagonal (columns × rows) matrix on tiles; :class:`neurosim.analog.operators.Layout` is one."""

    @property
    def rows(self) -> int:
        """Inputs of one group."""

    @property
    def columns(self) -> int:
        """Outputs of all groups."""

    @property
    def groups(self) -> int:
        """Blocks on the diagonal."""

    @property
    def row_slices(self) -> tuple[slice, ...]:
        """Parts of the rows."""

    @property
    def col_ranges(self) -> tuple[tuple[int, int], ...]:
        """(left, right) columns of each tile."""


class Faults(Frozen):
    r"""Faults of devices and lines, drawn once per chip: what is broken stays broken at every age.

    They act on both legs of every pair, each leg with its own draws, after programming and after ageing and
    before wires::

        g → g·max(1 + δ, 0)                      the die
        g → g_min, g_max or 0                    if the device is stuck low, stuck high or open

    * ``stuck_low_rate``, ``stuck_high_rate``, ``stuck_open_rate``: the probability of each for every device,
      independently.
    * ``row_rate``, ``column_rate``: the probability that a word line or a bit line of a tile is interrupted
      where it is driven or sensed, so that all devices on it are open.  A line belongs to one tile; the two
      legs have lines of their own, except the word lines of interleaved legs (``wires.legs``).
    * ``cluster_mean``, ``cluster_alpha``: the number of further defects in each device array is
      negative-binomial, with this mean in a full array and variance mean + mean²/alpha: the smaller alpha,
      the more the defects of a chip crowd into few arrays (Stapper's yield model).  A partly used array has
      its share of the mean; in an array places are uniform, no device twice.  Each is in ``cluster_state``.
    * ``die_std``, ``gradient_std``: δ = die_std·n + gradient_std·(p·x + q·y), with n, p, q ~ N(0, 1) once per
      chip, the same for all of its tiles and both legs, and x, y from −1 to 1 across the columns and rows of
      a full tile.  It scales what a device holds, as a process or a temperature that varies slowly over a
      die does after the devices were written.

    * ``map_file``: a CSV file of what a tester found, see :mod:`neurosim.devices.fault_map`, instead of
      rates; only the chips that it names exist.  ``map_sha256`` is that of its content, which acts, not its
      name.
    * ``remapping``: within every tile, bit lines (``"columns"``), word lines (``"rows"``) or both change
      places so that broken devices cost the weights least, see :mod:`neurosim.devices.remapping`.
    * ``spare_columns``: so many more columns a tile, with faults of their own, onto which the worst move.
    * ``pair_compensation``: the healthy leg of a pair makes up for the broken one, as far as it reaches.

    A line that is interrupted outranks a cluster, a cluster a stuck device.  Draws are uniform in steps of
    2⁻²⁴: rates are met within 6·10⁻⁸.

    Raises:
        UsageError: rates of stuck devices that sum to more than 1.

    >>> faults = Faults(stuck_low_rate=0.01, row_rate=0.001)
    >>> faults.act, Faults().act
    (True, False)
    """

    stuck_low_rate: Real = Field(default=0.0, ge=0.0, le=1.0)
    stuck_high_rate: Real = Field(default=0.0, ge=0.0, le=1.0)
    stuck_open_rate: Real = Field(default=0.0, ge=0.0, le=1.0)
    row_rate: Real = Field(default=0.0, ge=0.0, le=1.0)
    column_rate: Real = Field(default=0.0, ge=0.0, le=1.0)
    cluster_mean: Real = Field(default=0.0, ge=0.0, le=1e6)
    cluster_alpha: Real = Field(default=2.0, ge=0.01, le=1e6)
    cluster_state: Literal["low", "high", "open"] = "open"
    die_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    gradient_std: Real = Field(default=0.0, ge=0.0, le=1.0)
    map_file: str = Field(default="", max_length=4096)
    map_sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    remapping: Literal["none", "columns", "rows", "rows-and-columns"] = "none"
    spare_columns: Whole = Field(default=0, ge=0, le=100_000)
    pair_compensation: bool = False

    @model_validator(mode="before")
    @classmethod
    def _digested(cls, data: Any) -> Any:
        """The digest of a map is that of the file, unless it is given."""
        if isinstance(data, dict) and data.get("map_file") and not data.get("map_sha256"):
            return {**data, "map_sha256": digest_of(Path(str(data["map_file"])))}
        return data

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, handler(self), _LATER)

    @model_validator(mode="after")
    def _possible(self) -> Faults:
        if self.map_file and self._break_by_chance:
            raise ValueError("expected either map_file or rates of faults; got both")
        if self.map_file and self.spare_columns:
            raise ValueError("expected spare_columns=0 with map_file, which says nothing of spare columns")
        if self.map_file:
            check(self.map_file, self.map_sha256)
        total = sum(self._stuck_rates)
        if total > 1.0 + 1e-12:
            raise ValueError(
                "expected stuck_low_rate + stuck_high_rate + stuck_open_rate of at most 1; "
                f"got {' + '.join(f'{rate:g}' for rate in self._stuck_rates)}"
            )
        return self

    @property
    def _stuck_rates(self) -> tuple[float, float, float]:
        return self.stuck_low_rate, self.stuck_high_rate, self.stuck_open_rate

    @property
    def act(self) -> bool:
        """Whether they change anything."""
        return self._break or self._scale

    @property
    def _break(self) -> bool:
        return bool(self.map_file) or self._break_by_chance

    @property
    def _break_by_chance(self) -> bool:
        return any((*self._stuck_rates, self.row_rate, self.column_rate, self.cluster_mean))

    @property
    def breaks(self) -> bool:
        """Whether any device can be broken."""
        return self._break

    @property
    def heal(self) -> bool:
        """Whether something is done about what is broken."""
        return self._break and bool(self.remapping != "none" or self.spare_columns or self.pair_compensation)

    @property
    def _scale(self) -> bool:
        return self.die_std > 0 or self.gradient_std > 0

    def effects(self) -> list[Effect]:
        """A row for each fault that acts, or one that says that none does."""
        per_array = f"{self.cluster_mean:g} a full array on average, negative-binomial"
        possible = [
            ("stuck low", self.stuck_low_rate, f"{percent(self.stuck_low_rate)} of the devices, at g_min"),
            ("stuck high", self.stuck_high_rate, f"{percent(self.stuck_high_rate)} of the devices, at g_max"),
            ("stuck open", self.stuck_open_rate, f"{percent(self.stuck_open_rate)} of the devices, at 0"),
            ("broken word lines", self.row_rate, f"{percent(self.row_rate)} of those of each tile"),
            ("broken bit lines", self.column_rate, f"{percent(self.column_rate)} of those of each tile"),
            (
                "clustered defects",
                self.cluster_mean,
                f"{per_array}, alpha {self.cluster_alpha:g}, {self.cluster_state}",
            ),
            (
                "die to die",
                self.die_std,
                f"{percent(self.die_std)} of every conductance (standard deviation)",
            ),
            (
                "gradient over a tile",
                self.gradient_std,
                f"± {percent(self.gradient_std)} from middle to edge (standard deviation), along both axes",
            ),
        ]
        found = [Effect(name, True, "once per chip", size) for name, size_of, size in possible if size_of]
        if self.map_file:
            found.append(Effect("broken devices", True, "-", f"those of {self.map_file}"))
        for name, acts, size in (
            ("fault-aware remapping", self.remapping != "none", f"{self.remapping} within every tile"),
            ("spare columns", self.spare_columns, f"{self.spare_columns} a tile"),
            ("pair compensation", self.pair_compensation, "the healthy leg makes up for the broken one"),
        ):
            if acts and self._break:
                found.append(Effect(name, True, "once per chip", size))
        return found or [Effect("faults", False, "-", "none: every device and line works")]


class Defects(NamedTuple):
    """The faults of one leg of a matrix on some chips.

    Attributes:
        state: 0 where a device works, else 1 for stuck low, 2 for high and 3 for open, uint8 (chips, columns,
            rows); None where nothing can be broken.
        of_columns, of_rows: 1 + δ is their sum, (chips, columns, 1) and (chips, 1, rows); None without.
    """

    state: Tensor | None
    of_columns: Tensor | None
    of_rows: Tensor | None

    def turned(self) -> Defects:
        """With rows and columns exchanged."""
        turned = (None if part is None else part.transpose(1, 2) for part in self)
        return Defects(*turned)

    def apply(self, g_siemens: Tensor, device: Device) -> Tensor:
        """What is left of conductances, (chips, columns, rows); gradients pass where devices work."""
        import torch

        g = g_siemens
        if self.of_columns is not None and self.of_rows is not None:
            g = g * (self.of_columns + self.of_rows).clamp(min=0.0).to(g)
        if self.state is not None:
            held = g.new_tensor([0.0, device.g_min_siemens, device.g_max_siemens, 0.0])
            g = torch.where(self.state > 0, held[self.state.int()], g)
        return g


def defects(
    faults: Faults, tiles: OnTiles, draws: Draws, word_lines: Draws, shape: tuple[int, int], start: int = 0
) -> Defects:
    """Draw the faults of one leg.

    Args:
        faults: how many of which kind.
        tiles: where the matrix, (columns × rows), lies.
        draws: of this leg on the chips wanted.
        word_lines: of the word lines: those of the leg, or of both legs where they share them.
        shape: devices of a full array, (rows, columns).
        start: number of the first column, where the tiles hold only some columns of a parameter.
    """
    names = _Named(draws, word_lines, f", columns from {start}" if start else "")
    state = _broken(faults, tiles, names, shape) if faults._break_by_chance else None
    return Defects(state, *(_scales(faults, tiles, draws, shape) if faults._scale else (None, None)))


def spare_defects(faults: Faults, tiles: OnTiles, draws: Draws, start: int = 0) -> Tensor:
    """States of the spare columns of one leg, (chips, spare columns, rows), those of each tile in turn.

    Devices and bit lines fail at the rates of others; clusters and word lines, of which the spare columns
    have their share, are left to those.
    """
    alone = faults.model_copy(update={"row_rate": 0.0, "cluster_mean": 0.0})
    suffix = f", spare columns from {start}" if start else ", spare columns"
    blocks = line_ranges(tiles)
    spare = Spares(tiles.rows, len(blocks) * faults.spare_columns, tiles.row_slices)
    return _broken(alone, spare, _Named(draws, draws, suffix), (1, 1))


class Spares(NamedTuple):
    """Spare columns as a matrix on tiles of their own."""

    rows: int
    columns: int
    row_slices: tuple[slice, ...]
    groups: int = 1

    @property
    def col_ranges(self) -> tuple[tuple[int, int], ...]:
        """All together: nothing depends on it."""
        return ((0, self.columns),)


def concatenated(parts: Sequence[Defects]) -> Defects:
    """Defects of ranges of columns, side by side."""
    import torch

    if len(parts) == 1:
        return parts[0]
    states, columns, rows = zip(*parts, strict=True)
    return Defects(
        None if states[0] is None else torch.cat(states, dim=1),
        None if columns[0] is None else torch.cat(columns, dim=1),
        rows[0],
    )


class _Named(NamedTuple):
    """Draws under names that tell ranges of columns apart."""

    leg: Draws
    lines: Draws
    suffix: str

    def uniform(self, effect: str, shape: tuple[int, ...]) -> Tensor:
        return self.leg.uniform(effect + self.suffix, shape)

    def of_word_lines(self, shape: tuple[int, ...]) -> Tensor:
        return self.lines.uniform(f"broken word lines{self.suffix}", shape)


def _broken(faults: Faults, tiles: OnTiles, names: _Named, shape: tuple[int, int]) -> Tensor:
    """uint8 (chips, columns, rows)."""
    import torch

    size = (tiles.columns, tiles.rows)
    place = torch.device(names.leg.device)
    state = torch.zeros(len(names.leg.chips), *size, dtype=torch.uint8, device=place)
    rates = faults._stuck_rates
    if any(rates):
        u = names.uniform("stuck devices", size)
        # from the widest range of chances inwards, so that each state is left with its own rate
        for code, chance in reversed(list(zip(_STATES.values(), itertools.accumulate(rates), strict=True))):
            state[u < chance] = code
    if faults.cluster_mean:
        _cluster(state, faults, tiles, names, shape)
    if faults.row_rate:
        blocks = line_ranges(tiles)
        lines = names.of_word_lines((len(blocks), tiles.rows)) < faults.row_rate
        widths = torch.tensor([right - left for left, right in blocks], device=place)
        state[lines.repeat_interleave(widths, dim=1)] = _OPEN
    if faults.column_rate:
        lines = names.uniform("broken bit lines", (tiles.columns, len(tiles.row_slices))) < faults.column_rate
        heights = torch.tensor([part.stop - part.start for part in tiles.row_slices], device=place)
        state[lines.repeat_interleave(heights, dim=2)] = _OPEN
    return state


def line_ranges(tiles: OnTiles) -> list[tuple[int, int]]:
    """Ranges of columns that one word line passes: those of a tile, or of one group's part of it."""
    width = tiles.columns // tiles.groups
    found = []
    for left, right in tiles.col_ranges:
        inner = range(left, right, width) if right - left > width else (left,)
        found += list(itertools.pairwise([*inner, right]))
    return found


def _cluster(state: Tensor, faults: Faults, tiles: OnTiles, names: _Named, shape: tuple[int, int]) -> None:
    """Mark clustered defects in ``state``."""
    import torch

    places = names.uniform("clustered defects, places", (tiles.columns, tiles.rows))
    u = names.uniform("clustered defects", (len(tiles.col_ranges), len(tiles.row_slices))).double()
    code = _STATES[faults.cluster_state]
    for c, part, columns, rows in _arrays(tiles):
        inside = places[:, columns, rows].flatten(1)
        mean = faults.cluster_mean * inside.shape[1] / (shape[0] * shape[1])
        table = counts_up_to(mean, faults.cluster_alpha, inside.shape[1]).to(u.device)
        count = torch.searchsorted(table, (u[:, c, part] + _FINEST_CHANCE).contiguous())
        # numbers without ties: which are the least must not depend on how many another chip needs
        ranks = (inside * 2.0**24).long() * inside.shape[1] + torch.arange(inside.shape[1], device=u.device)
        order = ranks.topk(int(count.max()), dim=1, largest=False, sorted=True).indices
        chosen = torch.arange(order.shape[1], device=u.device) < count[:, None]
        marked = torch.zeros_like(inside, dtype=torch.bool).scatter_(1, order, chosen)
        block = state[:, columns, rows]
        block[marked.view_as(block)] = code


def _arrays(tiles: OnTiles) -> Iterator[tuple[int, int, slice, slice]]:
    """(column tile, row part, columns, rows) of each array."""
    for (c, (left, right)), (part, rows) in itertools.product(
        enumerate(tiles.col_ranges), enumerate(tiles.row_slices)
    ):
        yield c, part, slice(left, right), rows


def counts_up_to(mean: float, alpha: float, most: int) -> Tensor:
    """Cumulative probabilities, float64, of 0, 1, … defects of a negative-binomial; the last one is 1.

        P(k) = Γ(k + α)/(k!·Γ(α)) · (m/(m + α))^k · (α/(m + α))^α

    >>> [round(p, 4) for p in counts_up_to(1.0, 1.0, 3).tolist()]    # geometric
    [0.5, 0.75, 0.875, 1.0]
    """
    import torch

    spread = math.sqrt(mean + mean * mean / alpha)
    # at the smallest alpha the tail of 2⁻²⁵ reaches further than any number of deviations: then all counts
    top = most if alpha < 1 else min(most, math.ceil(mean + 40 * spread + 40))
    k = torch.arange(top, dtype=torch.float64)
    log_p = (
        torch.lgamma(k + alpha) - torch.lgamma(k + 1) - math.lgamma(alpha)
        + k * math.log(mean / (mean + alpha)) + alpha * math.log(alpha / (mean + alpha))
    )  # fmt: skip
    return torch.cat([log_p.exp().cumsum(0).clamp(max=1.0), torch.ones(1, dtype=torch.float64)])


def _scales(faults: Faults, tiles: OnTiles, draws: Draws, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(chips, columns, 1) and (chips, 1, rows), whose sum is 1 + δ."""
    from neurosim.random import Draws

    die = Draws(draws.lot, draws.chips, "die", draws.device)  # of the chip, not of a parameter
    n = die.normal("die to die", (1, 1)) * faults.die_std
    p, q = (die.normal("gradient", (2, 1, 1)) * faults.gradient_std).unbind(1)
    x, lead, y = _positions(tiles)
    height, width = shape
    # a group's rows lie below those of the groups before it in the tile: that part belongs to its columns
    of_columns = 1.0 + n + p * _across(x, width)[:, None] + q * (2.0 * lead / max(height - 1, 1))[:, None]
    return of_columns, q * _across(y, height)


def _positions(tiles: OnTiles) -> tuple[Tensor, Tensor, Tensor]:
    """Of columns: place in the tile and rows of groups before; of rows: place in their part."""
    import torch

    width = tiles.columns // tiles.groups
    x = torch.cat([torch.arange(right - left) for left, right in tiles.col_ranges])
    packed = torch.cat(
        [torch.full((right - left,), right - left > width) for left, right in tiles.col_ranges]
    )
    lead = torch.where(packed, x.div(width, rounding_mode="floor") * tiles.rows, 0)
    y = torch.cat([torch.arange(part.stop - part.start) for part in tiles.row_slices])
    return x.float(), lead.float(), y.float()


def _across(position: Tensor, size: int) -> Tensor:
    """−1 at the first line of a full tile, 1 at the last."""
    return 2.0 * position / max(size - 1, 1) - 1.0
