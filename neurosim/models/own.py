"""A network of the user's own: a callable that the user names as ``module:callable``.

Only :func:`own_model` imports, and only the module it is asked for.  Nothing that is read from a file may
reach it: a run records the name as text, and is opened with the :class:`OwnModel` of the same name or not
at all.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from neurosim import errors
from neurosim.errors import RunError, UsageError
from neurosim.models.catalogue import seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHAPES = ("num_classes", "in_chans", "image_size")
_GIVEN = (*_SHAPES, "seed", "input_mean", "input_std")
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_EXPECTED = "expected module:callable, such as mypkg.nets:build"


@dataclass(frozen=True)
class OwnModel:
    """A callable that returns a torch module, and the name under which runs record it.

    It is called with those of num_classes, in_chans, image_size ((height, width)), seed, input_mean and
    input_std (a number per channel) that its signature names, and with the user's own options.  The network
    reads float32 (batch, in_chans, height, width) in [0, 1], not normalised unless it does so itself, and
    returns one score for each class.

    Args:
        name: ``module:callable``.
        build: the callable.
        folder: put first on the module path while the callable or its network is at work.
    """

    name: str
    build: Callable[..., Any]
    folder: Path | None = None

    def create(self, settings: Mapping[str, Any], seed: int = 0, task: str = "classification") -> nn.Module:
        """Build the network; initial weights are a function of ``seed`` alone, as for :func:`models.create`.

        Args:
            settings: the shapes of the data and its input_mean and input_std, and options of the callable.
            seed: of torch's generator while the callable runs, and given to it if it takes one.
            task: of the data; for ``segmentation`` the network returns scores of each pixel,
                (batch, classes, height, width).

        Raises:
            UsageError: an option the callable does not take, an argument nobody has, an exception in it,
                something else than a module, or a network for other inputs or classes.
        """
        arguments = self._arguments({**settings, "seed": seed})
        with self.at_work():
            net = seeded(self._called, seed, arguments)
            classes, channels, size = (settings[name] for name in _SHAPES)
            self._check_shapes(net, classes, channels, size, task)
        return net

    def check_options(self, options: Iterable[str]) -> None:
        """Refuse what the callable does not take, and what is not the user's to set."""
        named, anything = self._takes()
        for option in options:
            if option in _SHAPES or option == "seed":
                source = "--seed" if option == "seed" else "the data"
                raise UsageError(f"model.{option} comes from {source} and cannot be set")
            if option not in named and (option in _GIVEN or not anything):
                raise errors.unknown(f"option of model {self.name!r}:", option, named - {*_SHAPES, "seed"})

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """While the user's code runs: its folder can be imported from, and what it prints goes to stderr.

        An exception raised by code in that folder ends as a ``RunError`` that says where.
        """
        with _importable(self.folder), contextlib.redirect_stdout(sys.stderr):
            try:
                yield
            except (UsageError, RunError, OSError, MemoryError):
                raise
            except Exception as error:
                if self.folder is None or not _raised_in(self.folder, error):
                    raise
                raise RunError(f"the network of {self.name} failed: {_reason(error)}") from error

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(self.build).parameters
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{self.name} cannot be called: Python does not know its arguments; "
                "expected a function or a class that returns a torch module"
            ) from error

    def _takes(self) -> tuple[set[str], bool]:
        """The arguments that can be given by name, and whether any other can."""
        parameters = self._parameters().values()
        named = {p.name for p in parameters if p.kind in _BY_NAME}
        return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)

    def _arguments(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        named, _ = self._takes()
        self.check_options(name for name in settings if name not in _GIVEN)
        arguments = {key: value for key, value in settings.items() if key in named or key not in _GIVEN}
        for parameter in self._parameters().values():
            if parameter.default is not parameter.empty or parameter.kind in _REST:
                continue
            if parameter.kind not in _BY_NAME:
                raise UsageError(
                    f"{self.name} takes {parameter.name!r} by position only: expected arguments with names"
                )
            if parameter.name not in arguments:
                raise UsageError(
                    f"{self.name} needs the argument {parameter.name!r}, which neurosim does not have "
                    f"(it has {', '.join(_GIVEN)}): give it with --set model.{parameter.name}=VALUE"
                )
        return arguments

    def _called(self, /, **arguments: Any) -> nn.Module:
        from torch import nn

        try:
            found = self.build(**arguments)
        except (Exception, SystemExit) as error:
            raise UsageError(f"{self.name} failed when it was called: {_reason(error)}") from error
        if not isinstance(found, nn.Module):
            raise UsageError(f"{self.name} returned {_a(found)}: expected a torch module (nn.Module)")
        return found

    def _check_shapes(
        self, net: nn.Module, classes: int, channels: int, size: tuple[int, int], task: str
    ) -> None:
        shape = (2, channels, *size)
        wanted = (2, classes, *size) if task == "segmentation" else (2, classes)
        try:
            found = _outputs(net, shape)
        except Exception as error:
            raise UsageError(
                f"the network of {self.name} cannot read the data, inputs of shape {shape} for two samples: "
                f"{_reason(error)}"
            ) from error
        got = f"shape {tuple(found.shape)}" if hasattr(found, "shape") else f"type {type(found).__name__}"
        if got != f"shape {wanted}":
            where = ", at each pixel" if task == "segmentation" else ""
            raise UsageError(
                f"the network of {self.name} gives outputs of {got} for two samples: "
                f"expected shape {wanted}, one score for each of the {classes} classes of the data{where}"
            )


def is_own(name: str) -> bool:
    """Whether this is a name of the form ``module:callable``; dots may lead to both.

    >>> is_own("mypkg.nets:build"), is_own("mypkg.nets:Net.small"), is_own("cnn"), is_own("nets.py:build")
    (True, True, False, False)
    """
    module, colon, path = name.partition(":")
    parts = [*module.split("."), *path.split(".")]
    return bool(colon) and not module.endswith(".py") and all(part.isidentifier() for part in parts)


def own_model(name: str) -> OwnModel:
    """Import ``module:callable`` from the current folder or the installed packages.

    This runs the module's code: call it with what the user typed, never with what a file says.

    Raises:
        UsageError: not such a name, no such module, an exception while it is imported, nothing of that name
            in it, or something that cannot be called.
    """
    if not is_own(name):
        raise UsageError(f"cannot read the network {name!r}: {_EXPECTED}")
    module_name, _, path = name.partition(":")
    folder = Path.cwd()
    with _importable(folder), contextlib.redirect_stdout(sys.stderr):
        found: Any = _module(module_name, folder)
        where = f"{module_name} ({getattr(found, '__file__', None) or 'built in'})"
        for part in path.split("."):
            found = _attribute(found, part, where)
    _check_callable(name, found)
    return OwnModel(name, found, folder)


def _module(name: str, folder: Path) -> ModuleType:
    importlib.invalidate_caches()  # it may have been written a moment ago
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {name!r}, neither in {folder} nor among the installed packages ({error})"
            ) from error
        raise UsageError(f"the module {name} failed when it was imported: {_reason(error)}") from error


def _attribute(owner: Any, name: str, where: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        near = difflib.get_close_matches(name, [key for key in vars(owner) if key[:1] != "_"], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "expected a function or class that is defined in it"
        raise UsageError(f"the module {where} has no {name!r}: {hint}") from error


def _check_callable(name: str, found: Any) -> None:
    from torch import nn

    if isinstance(found, nn.Module) or not callable(found):
        raise UsageError(f"{name} is {_a(found)}: expected a function or class that returns a torch module")


def _outputs(net: nn.Module, shape: tuple[int, ...]) -> Tensor | Any:
    """What the network gives for blank samples; every module is left in the mode it was in."""
    import torch

    tensors = [*net.parameters(), *net.buffers()]
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.no_grad():
            return net(torch.zeros(shape, device=tensors[0].device if tensors else "cpu"))
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _importable(folder: Path | None) -> Iterator[None]:
    """A folder first on the module path, as ``python -m`` would have it, and off it afterwards."""
    if folder is None:
        yield
        return
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _reason(error: BaseException) -> str:
    """An exception of the user's code in a line: its type, its text, and where in that code it was raised."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    here = [frame for frame in frames if _is_in(Path.cwd(), frame)]
    for frame in reversed(here or frames):
        if frame.filename != __file__ and "importlib" not in frame.filename:
            text += f" ({Path(frame.filename).name}, line {frame.lineno})"
            break
    return f"{type(error).__name__}: {text}"


def _raised_in(folder: Path, error: Exception) -> bool:
    """Whether the last code before torch's that an exception passed through lies in a folder."""
    frames = traceback.extract_tb(error.__traceback__)
    packages = Path(importlib.import_module("torch").__file__ or "").parents[1]
    others = [frame for frame in frames if not Path(frame.filename).is_relative_to(packages)]
    return bool(others) and _is_in(folder, others[-1])


def _is_in(folder: Path, frame: traceback.FrameSummary) -> bool:
    """Whether code is of a folder, and not of the packages installed in it or of this one."""
    path = Path(frame.filename)
    installed = "site-packages" in path.parts or path.is_relative_to(Path(__file__).parents[1])
    return path.is_relative_to(folder) and not installed


def _a(value: Any) -> str:
    kind = "None" if value is None else type(value).__name__
    return kind if value is None else f"an object of type {kind}"
