"""Crossbars of devices that are not linear, with resistive wires: Newton's method on the nodal equations.

Around voltages p of the devices, each is its tangent: a conductance s = ∂i/∂v(p) beside a current source
i(p) − s·p (its companion model).  The array is then linear, and exactly solved by nested dissection; its
voltages give the next p.  As every such solution obeys Kirchhoff's laws with the currents of the tangents,
what is left is the distance of tangent and law at each device: the imbalance of currents at its two nodes.

Tangents of a steep law, taken far from the solution, throw Newton's method about.  So the next p is the
voltage just found only where law and tangent nearly meet.  Elsewhere it is whichever of two is nearer to
0 V, that voltage or the one at which the law has the current just found; and 0 V where they differ in sign.
For a diode this is SPICE's limiting of junction voltages (L. Nagel, "SPICE2", UCB/ERL M520, 1975); it takes
any rising law, and a step for every few v0 of an exponential.  Near the solution it is Newton's method
itself.

That may cycle between saturated devices, so from the 21st iteration on another measure takes its place.  As
every law rises, the state is the minimum of a convex function, the co-content of the network: half the
conductance times voltage squared of each wire, plus ∫i dv of each device (W. Millar, Phil. Mag. 42, 1150,
1951).  Newton's steps are halved until it falls along them, and then converge from anywhere.  Voltages and
currents of wires are linear along a step between two states that obey Kirchhoff's laws, so the derivative
of the co-content is Σ (i(v) − i_Kirchhoff)·Δv over the devices alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from neurosim.devices.wires.effective import Resistances, check_topology, checked, effective, flat, ideal
from neurosim.devices.wires.laws import Law
from neurosim.devices.wires.solution import Network, Solution, check_voltages
from neurosim.errors import RunError, UsageError, unknown

Kind = Literal["chord", "tangent", "low-field"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
_FAR = 0.1  # law and tangent that differ by more of the tangent's current are far apart
_LIMITED_STEPS = 20
_HALVINGS = 40
_INVERSE_STEPS = 6
_ITERATIONS = 200
_REST_VOLT = 1e-30  # below it a chord is a tangent
# what the reduction of one cell keeps, in numbers (measured, 16 × 16 to 256 × 256), and for how much at once
_NUMBERS_PER_CELL = 128
_CHUNK_BYTES = 64 << 20
_INPUTS_PER_ARRAY = 8  # as much again for an input without sources


@dataclass(frozen=True)
class NonlinearSolution:
    """The state of arrays of devices that are not linear.

    Attributes:
        solution: voltages, currents and power, as :func:`neurosim.devices.wires.solve` gives them; currents
            are those of the last tangents, which obey Kirchhoff's current law.
        residual: (..., inputs), largest |i(v) − current| of a device over the largest current of a device.
        iterations: (..., inputs), linear solves.
    """

    solution: Solution
    residual: Tensor
    iterations: Tensor

    @property
    def device_volt(self) -> Tensor:
        """(..., inputs, rows, cols), a ``start`` for arrays that differ little."""
        return self.solution.word_line_volt - self.solution.bit_line_volt


def solve_nonlinear(
    g_siemens: Tensor,
    v_row_volt: Tensor,
    law: Law,
    *,
    r_row_ohm: float | Tensor,
    r_col_ohm: float | Tensor,
    r_source_ohm: float | Tensor = 0.0,
    r_sink_ohm: float | Tensor = 0.0,
    topology: str = "opposite",
    v_col_volt: Tensor | None = None,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = _ITERATIONS,
) -> NonlinearSolution:
    """Every voltage and current of arrays whose devices follow a law, each input at its own operating point.

    Every iteration after the first costs a linear network, O(n³), for each input, where ``solve`` and
    ``effective_conductance`` reduce one for all inputs; :func:`linearised_conductance` is a compromise.

    Args:
        g_siemens: (..., rows, cols), what the law calls g; 0 is an open device.
        v_row_volt: (..., inputs, rows), voltage of each driver; leading axes as those of ``g_siemens``.
        law: of all devices, one of :data:`neurosim.devices.wires.laws.LAWS`.
        r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm, topology: as for ``effective_conductance``.
        v_col_volt: (..., inputs, cols), voltage of each sense node; None: virtual ground.
        start: device voltages to begin from, broadcast to (..., inputs, rows, cols); None: 0 V, so that the
            first iteration is the linear array of low-field conductances, one for all inputs.
        tolerance: what ``residual`` must not exceed; None: 1e-10 in float64, 1e-5 in float32.
        max_iterations: of each array and input.

    Raises:
        UsageError: as ``solve``, or another law, start, tolerance or number of iterations than expected.
        RunError: still above the tolerance after ``max_iterations``.

    >>> from neurosim.devices.wires.laws import Sinh
    >>> g = torch.full((4, 4), 1e-3, dtype=torch.float64)
    >>> v = torch.ones(1, 4, dtype=torch.float64)
    >>> found = solve_nonlinear(g, v, Sinh(), r_row_ohm=10.0, r_col_ohm=10.0)
    >>> print((found.solution.column_ampere * 1e3).numpy().round(3), found.residual.item() < 1e-10)
    [[7.355 6.613 6.165 5.954]] True
    >>> again = solve_nonlinear(g, 1.02 * v, Sinh(), r_row_ohm=10.0, r_col_ohm=10.0, start=found.device_volt)
    >>> found.iterations.item(), again.iterations.item()
    (5, 3)
    """
    resistances = checked(g_siemens, r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm)
    check_topology(topology)
    v_row, v_col = check_voltages(g_siemens, v_row_volt, v_col_volt)
    limit = _checked_limits(law, tolerance, max_iterations, g_siemens.dtype)
    shape = (*v_row.shape[:-1], *g_siemens.shape[-2:])
    point = _checked_start(start, shape, g_siemens)
    problem = _Problem.of(g_siemens, v_row, v_col, resistances, topology, law)
    with torch.no_grad():
        found = _newton(problem, point, limit, max_iterations)
        return _result(problem, found, v_row, v_col)


def newton(g: Tensor, v_row: Tensor, law: Law, wires: Resistances, topology: str) -> Tensor:
    """Column currents (..., inputs, cols) of checked arguments, with a resistance of its own at each end."""
    v_col = v_row.new_zeros(*v_row.shape[:-1], g.shape[-1])
    problem = _Problem.of(g, v_row, v_col, wires, topology, law)
    with torch.no_grad():
        found = _newton(problem, None, TOLERANCE[g.dtype], _ITERATIONS)
    return _result(problem, found, v_row, v_col).solution.column_ampere


def _checked_limits(law: Law, tolerance: float | None, max_iterations: int, dtype: torch.dtype) -> float:
    """The tolerance, or UsageError."""
    if not isinstance(law, Law):
        raise UsageError(f"expected law as one of neurosim.devices.wires.laws; got {law!r}")
    if tolerance is not None and not 0.0 < tolerance < 1.0:
        raise UsageError(f"expected a tolerance between 0 and 1; got tolerance={tolerance!r}")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int) or max_iterations < 1:
        raise UsageError(f"expected max_iterations as a whole number above 0; got {max_iterations!r}")
    return TOLERANCE[dtype] if tolerance is None else tolerance


def _checked_start(start: Tensor | None, shape: tuple[int, ...], g: Tensor) -> Tensor | None:
    """Device voltages of this shape to begin from, or UsageError."""
    if start is None:
        return None
    if not isinstance(start, Tensor) or start.dtype != g.dtype:
        kind = start.dtype if isinstance(start, Tensor) else type(start).__name__
        raise UsageError(f"expected start as a tensor of {g.dtype}; got {kind}")
    try:
        found = start.detach().expand(shape)
    except RuntimeError:
        raise UsageError(f"expected start to broadcast to {shape}; got {tuple(start.shape)}") from None
    if not bool(found.isfinite().all()):
        raise UsageError("expected finite voltages in start; got NaN or infinity")
    return found


@dataclass(frozen=True)
class _Problem:
    """Pairs of one array and one input; ``g`` and ``wires`` are of arrays, ``v_row``, ``v_col`` of pairs."""

    g: Tensor
    v_row: Tensor
    v_col: Tensor
    wires: Resistances
    topology: str
    law: Law

    @classmethod
    def of(
        cls, g: Tensor, v_row: Tensor, v_col: Tensor, wires: Resistances, topology: str, law: Law
    ) -> _Problem:
        arrays = g.detach().reshape(-1, *g.shape[-2:])
        wires = Resistances(*(x.detach() for x in flat(wires, g, g.dtype)))
        v_row, v_col = (v.detach().reshape(-1, v.shape[-1]) for v in (v_row, v_col))
        return cls(arrays, v_row, v_col, wires, topology, law)

    @property
    def inputs(self) -> int:
        """Of each array."""
        return len(self.v_row) // max(1, len(self.g))

    def take(self, pairs: Tensor) -> _Problem:
        """Only these pairs, with an array for each."""
        arrays = pairs // self.inputs
        wires = Resistances(*(x[arrays] for x in self.wires))
        return _Problem(self.g[arrays], self.v_row[pairs], self.v_col[pairs], wires, self.topology, self.law)

    def step(self, point: Tensor) -> _State:
        """The array of the tangents at these device voltages."""
        current, slope = self.law.both(point, self.g)
        source = current - slope * point
        network = Network.of(slope, self.wires, self.topology, sources=True)
        word, bit = network.nodes(self.v_row[:, None], self.v_col[:, None], source[:, None])
        word, bit = word[:, 0], bit[:, 0]
        return _State(word, bit, slope * (word - bit) + source)


@dataclass(frozen=True)
class _State:
    """Voltages of nodes and currents of devices, (pairs, rows, cols), that obey Kirchhoff's laws."""

    word: Tensor
    bit: Tensor
    current: Tensor

    @property
    def volt(self) -> Tensor:
        return self.word - self.bit

    def take(self, pairs: Tensor) -> _State:
        return _State(self.word[pairs], self.bit[pairs], self.current[pairs])

    def put(self, pairs: Tensor, other: _State) -> None:
        self.word[pairs], self.bit[pairs], self.current[pairs] = other.word, other.bit, other.current

    def towards(self, other: _State, part: Tensor) -> _State:
        """(1 − part)·this + part·other."""
        part = part[:, None, None]
        word, bit = self.word.lerp(other.word, part), self.bit.lerp(other.bit, part)
        return _State(word, bit, self.current.lerp(other.current, part))


@dataclass
class _Found:
    """Where each pair stands: its state, next linearisation point, residual, number of linear solves."""

    state: _State
    point: Tensor
    residual: Tensor
    iterations: Tensor


def _without_wires(problem: _Problem) -> _Found:
    """Every device between its two sources."""
    pairs = torch.arange(len(problem.v_row), device=problem.g.device)
    g = problem.take(pairs).g
    word, bit = problem.v_row[:, :, None].expand_as(g), problem.v_col[:, None, :].expand_as(g)
    current = problem.law.current(word - bit, g)
    none = problem.v_row.new_zeros(len(pairs))
    return _Found(_State(word, bit, current), word - bit, none, torch.zeros_like(none, dtype=torch.int64))


def _newton(problem: _Problem, point: Tensor | None, tolerance: float, max_iterations: int) -> _Found:
    """Iterate all pairs, from ``point`` or 0 V, until no residual exceeds the tolerance, or RunError."""
    if ideal(problem.wires):
        return _without_wires(problem)
    g, pairs = problem.g, len(problem.v_row)
    none = g.new_zeros(pairs, *g.shape[1:])
    residual = g.new_full((pairs,), torch.inf)
    found = _Found(
        _State(none, none.clone(), none.clone()),
        none.clone() if point is None else point.reshape(none.shape).clone(),
        residual,
        torch.zeros_like(residual, dtype=torch.int64),
    )
    rows, cols = g.shape[1:]
    chunk = max(1, _CHUNK_BYTES // (_NUMBERS_PER_CELL * max(1, rows * cols) * g.element_size()))
    for iteration in range(max_iterations):
        open_pairs = (~(found.residual <= tolerance)).nonzero().squeeze(1)
        if not len(open_pairs):
            return found
        if iteration == 0 and point is None:
            _low_field(problem, found, chunk)
            continue
        for part in open_pairs.split(chunk):
            some = problem.take(part)
            state = some.step(found.point[part])
            if iteration >= _LIMITED_STEPS:
                state = _shortened(some, found.state.take(part), state)
            _record(some, found, part, state, iteration)
    worst = found.residual.nan_to_num(nan=torch.inf).amax().item() if pairs else 0.0
    if worst > tolerance:
        left = int((~(found.residual <= tolerance)).sum())
        raise RunError(
            f"Newton's method ended after max_iterations={max_iterations} with a residual of {worst:.3g}, "
            f"above tolerance={tolerance:g}, in {left} of {pairs} pairs of array and input"
        )
    return found


def _low_field(problem: _Problem, found: _Found, chunk: int) -> None:
    """The first iteration from 0 V: one network for all inputs of an array."""
    inputs, device = problem.inputs, problem.g.device
    for arrays in torch.arange(len(problem.g), device=device).split(chunk):
        g = problem.g[arrays]
        slope = problem.law.slope(torch.zeros_like(g), g)
        network = Network.of(slope, Resistances(*(x[arrays] for x in problem.wires)), problem.topology)
        at_once = max(1, _INPUTS_PER_ARRAY * chunk // len(arrays))
        for some in torch.arange(inputs, device=device).split(at_once):
            pairs = arrays[:, None] * inputs + some
            word, bit = network.nodes(problem.v_row[pairs], problem.v_col[pairs])
            state = _State(*(x.flatten(0, 1) for x in (word, bit, slope[:, None] * (word - bit))))
            _record(problem.take(pairs.flatten()), found, pairs.flatten(), state, 0)


def _record(problem: _Problem, found: _Found, pairs: Tensor, state: _State, iteration: int) -> None:
    """The new state of these pairs and where to linearise next; ``problem`` holds them alone."""
    volt = state.volt
    current = problem.law.current(volt, problem.g)
    off = (current - state.current).abs()
    scale = state.current.abs().amax(dim=(1, 2)).clamp_min(torch.finfo(off.dtype).tiny)
    found.residual[pairs] = off.amax(dim=(1, 2)) / scale
    found.iterations[pairs] = iteration + 1
    found.state.put(pairs, state)
    if iteration < _LIMITED_STEPS - 1:
        volt = _limited(problem, volt, current, state.current)
    found.point[pairs] = volt


def _limited(problem: _Problem, volt: Tensor, current: Tensor, wanted: Tensor) -> Tensor:
    """Next linearisation points; ``current`` is the law's at ``volt``, ``wanted`` the tangents'."""
    # where the network broke down, NaN, too
    far = ~((current - wanted).abs() <= _FAR * wanted.abs())
    if not bool(far.any()):
        return volt
    opposite = far & ~(volt * wanted > 0)
    steep = far & ~opposite & (current.abs() > wanted.abs())
    point = volt.clone()
    point[opposite] = 0.0
    if bool(steep.any()):
        point[steep] = _inverse(problem.law, problem.g[steep], volt[steep], wanted[steep])
    return point


def _inverse(law: Law, g: Tensor, volt: Tensor, wanted: Tensor) -> Tensor:
    """Roughly, where the law has the current ``wanted``, of the sign of ``volt`` and nearer to 0.

    Newton's method for ln i over ln v, from above: straight lines for any power, convex for an exponential.
    """
    for _ in range(_INVERSE_STEPS):
        current, slope = law.both(volt, g)
        step = current / (slope * volt) * (wanted / current).log()
        volt = volt * step.clamp(-2.0, 2.0).exp()
    return volt


def _shortened(problem: _Problem, old: _State, new: _State) -> _State:
    """The step from one state to the next, halved until the co-content φ falls enough along it.

    As φ is convex, φ(t) − φ(0) ≤ t/2·(φ'(t/2) + φ'(t)); a step near the solution has −½ and 0 times −φ'(0).
    """
    start, way = old.volt, new.volt - old.volt

    def derivative(part: Tensor) -> Tensor:
        current = problem.law.current(start + part[:, None, None] * way, problem.g)
        kirchhoff = old.current.lerp(new.current, part[:, None, None])
        return ((current - kirchhoff) * way).sum(dim=(1, 2))

    part = start.new_ones(len(start))
    enough = 0.2 * derivative(0.0 * part)
    # a step so small is good, and its derivative mere rounding
    small = way.abs().amax(dim=(1, 2)) <= torch.finfo(way.dtype).eps ** 0.5 * start.abs().amax(dim=(1, 2))
    for _ in range(_HALVINGS):
        short = small | (derivative(0.5 * part) + derivative(part) <= enough)
        if bool(short.all()):
            break
        part = torch.where(short, part, 0.5 * part)
    return old.towards(new, part)


def _result(problem: _Problem, found: _Found, v_row: Tensor, v_col: Tensor) -> NonlinearSolution:
    """Back to (..., inputs, ...)."""
    batch, inputs = v_row.shape[:-2], v_row.shape[-2]

    def split(x: Tensor) -> Tensor:
        return x.reshape(len(problem.g), inputs, *x.shape[1:])

    word, bit, current = (split(x) for x in (found.state.word, found.state.bit, found.state.current))
    solution = Network.solution(word, bit, current, split(problem.v_row), split(problem.v_col), batch)
    residual, iterations = (x.reshape(*batch, inputs) for x in (found.residual, found.iterations))
    return NonlinearSolution(solution, residual, iterations)


def linearised_conductance(
    g_siemens: Tensor,
    v_row_volt: Tensor,
    law: Law,
    *,
    kind: Kind = "chord",
    r_row_ohm: float | Tensor,
    r_col_ohm: float | Tensor,
    r_source_ohm: float | Tensor = 0.0,
    r_sink_ohm: float | Tensor = 0.0,
    topology: str = "opposite",
    start: Tensor | None = None,
) -> Tensor:
    """Effective conductances of arrays linearised at operating points: fast, but approximate elsewhere.

    Newton's method finds the state for each v_row; there every device becomes a conductance, which goes
    through :func:`neurosim.devices.wires.effective_conductance`:

    - ``"chord"``, i(v)/v (∂i/∂v at v = 0): currents are v @ g_eff, exact at the operating point itself;
    - ``"tangent"``, ∂i/∂v: currents are I(v_row) + (v − v_row) @ g_eff, exact to first order around it;
    - ``"low-field"``, ∂i/∂v at 0 V, whatever v_row: currents are v @ g_eff.

    Args:
        g_siemens, v_row_volt, law, start: as for :func:`solve_nonlinear`; inputs are the operating points.
        r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm, topology: as for ``effective_conductance``.

    Returns:
        (..., inputs, rows, cols) in siemens, one matrix for each operating point.

    Raises:
        UsageError, RunError: as ``solve_nonlinear``, or an unknown kind.

    >>> from neurosim.devices.wires.laws import Sinh
    >>> g, v = torch.full((2, 2), 1e-3, dtype=torch.float64), torch.full((1, 2), 0.4, dtype=torch.float64)
    >>> wires = {"r_row_ohm": 10.0, "r_col_ohm": 10.0}
    >>> g_eff = linearised_conductance(g, v, Sinh(), **wires)
    >>> exact = solve_nonlinear(g, v, Sinh(), **wires).solution.column_ampere
    >>> bool(torch.allclose(v @ g_eff[0], exact, rtol=1e-9))
    True
    """
    if kind not in KINDS:
        raise unknown("kind of linearisation", kind, KINDS)
    found = solve_nonlinear(
        g_siemens, v_row_volt, law, topology=topology, start=start,
        r_row_ohm=r_row_ohm, r_col_ohm=r_col_ohm, r_source_ohm=r_source_ohm, r_sink_ohm=r_sink_ohm,
    )  # fmt: skip
    resistances = checked(g_siemens, r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm)
    return _linearised(g_siemens, found.device_volt, law, kind, resistances, topology)


def _linearised(
    g: Tensor, volt: Tensor, law: Law, kind: Kind, resistances: Resistances, topology: str
) -> Tensor:
    """Effective conductances (..., inputs, rows, cols) of linearisations at device voltages ``volt``."""
    batch, inputs = g.shape[:-2], volt.shape[-3]
    g = g.detach().unsqueeze(-3).expand(volt.shape)
    if kind == "chord":
        current, slope = law.both(volt, g)
        rest = volt.abs() < _REST_VOLT
        device = torch.where(rest, slope, current / torch.where(rest, torch.ones_like(volt), volt))
    else:
        device = law.slope(volt if kind == "tangent" else torch.zeros_like(volt), g)
    wires = Resistances(*(x.detach().expand(batch).unsqueeze(-1).expand(*batch, inputs) for x in resistances))
    return effective(device.contiguous(), wires, topology)


def linearisation_error(
    g_siemens: Tensor,
    v_row_volt: Tensor,
    law: Law,
    *,
    operating_volt: Tensor,
    kind: Kind = "chord",
    r_row_ohm: float | Tensor,
    r_col_ohm: float | Tensor,
    r_source_ohm: float | Tensor = 0.0,
    r_sink_ohm: float | Tensor = 0.0,
    topology: str = "opposite",
) -> Tensor:
    """How far :func:`linearised_conductance` is from Newton's method on given inputs.

    Args:
        g_siemens, v_row_volt, law: as for :func:`solve_nonlinear`.
        operating_volt: (..., rows), the one operating point of each array.
        kind, r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm, topology: as for ``linearised_conductance``.

    Returns:
        (...), rms of the difference over the rms of the exact currents, over inputs and columns of an array.

    Raises:
        UsageError, RunError: as ``linearised_conductance``.

    >>> from neurosim.devices.wires.laws import Sinh
    >>> g = torch.full((4, 4), 1e-4, dtype=torch.float64)
    >>> v = torch.linspace(0.1, 0.4, 4, dtype=torch.float64).expand(3, 4)
    >>> point = torch.full((4,), 0.3, dtype=torch.float64)
    >>> error = linearisation_error(g, v, Sinh(), operating_volt=point, r_row_ohm=5.0, r_col_ohm=5.0)
    >>> print(f"{error.item():.1%}")
    1.6%
    """
    if kind not in KINDS:
        raise unknown("kind of linearisation", kind, KINDS)
    if not isinstance(operating_volt, Tensor) or operating_volt.shape != g_siemens.shape[:-1]:
        got = tuple(operating_volt.shape) if isinstance(operating_volt, Tensor) else operating_volt
        raise UsageError(f"expected operating_volt of shape {tuple(g_siemens.shape[:-1])}; got {got}")
    point = operating_volt.unsqueeze(-2)
    exact, there = (
        solve_nonlinear(
            g_siemens, volts, law, topology=topology,
            r_row_ohm=r_row_ohm, r_col_ohm=r_col_ohm, r_source_ohm=r_source_ohm, r_sink_ohm=r_sink_ohm,
        )
        for volts in (v_row_volt, point)
    )  # fmt: skip
    resistances = checked(g_siemens, r_row_ohm, r_col_ohm, r_source_ohm, r_sink_ohm)
    g_eff = _linearised(g_siemens, there.device_volt, law, kind, resistances, topology).squeeze(-3)
    if kind == "tangent":
        near = there.solution.column_ampere + (v_row_volt - point) @ g_eff
    else:
        near = v_row_volt @ g_eff
    amperes = exact.solution.column_ampere
    return (near - amperes).square().mean(dim=(-2, -1)).sqrt() / amperes.square().mean(dim=(-2, -1)).sqrt()
