"""Engines by name."""

from __future__ import annotations

from neurosim.errors import UsageError, unknown
from neurosim.evaluation.recipe import Engine, InThisProcess

ENGINES = ("local", "ray")
_MOST = 1024


def engine_of(engine: str | Engine | None, workers: int | None) -> Engine | None:
    """The engine of a name and a number of workers; None is this process with all its threads.

    Raises :class:`UsageError` for an unknown name, or a number of workers out of range.
    """
    if workers is not None and (
        isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= _MOST
    ):
        raise UsageError(f"workers must be a whole number from 1 to {_MOST}; got {workers!r}")
    if engine is not None and not isinstance(engine, str):
        return engine
    if engine not in (None, *ENGINES):
        raise unknown("engine", engine, ENGINES)
    if engine == "ray":
        from neurosim.evaluation.ray_engine import RayEngine

        return RayEngine(workers)
    if workers is None:
        return None
    if workers == 1:
        return InThisProcess()
    from neurosim.evaluation.pool import Pool

    return Pool(workers)
