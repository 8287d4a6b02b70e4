"""Options that several commands have, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder with the data sets; else NEUROSIM_DATA.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be given again and again."),
]
HardwareName = Annotated[
    str | None, typer.Option("--hardware", metavar="NAME|FILE", help="A preset or a TOML file.")
]
Chips = Annotated[int, typer.Option("--chips", help="How many chips of the lot, from chip 0.")]
Times = Annotated[
    str | None, typer.Option("--times", metavar="1s,1h,1d,1y", help="Ages at which the chips are read.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the lot: other chips.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the results go.")]
Bound = Annotated[
    float | None, typer.Option("--bound", min=0, max=1, help="Accuracy that counts as a good chip (yield).")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N samples.")]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include", metavar="PATTERN", help="Only these layers go on crossbars, such as 'layer1.*'."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="These stay digital; also :first and :last."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse to leave a parameter digital that --exclude does not name.")
]
Also = Annotated[
    list[str] | None,
    typer.Option("--also", metavar="PATTERN", help="Parameters of other modules that go on crossbars too."),
]
BatchNorm = Annotated[
    str,
    typer.Option("--batchnorm", metavar="kept|folded|re-estimated", help="What becomes of it on chips."),
]
Products = Annotated[
    str,
    typer.Option(
        "--products",
        metavar="float32|bfloat16",
        help="Type of the numbers multiplied; the error is reported.",
    ),
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders made by neurosim train.")]
OwnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODULE:CALLABLE",
        help="Your own network: alone with --data, or one that a RUN records.",
    ),
]
OwnData = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME|FILE", help="Without a RUN: the data of your own network."),
]
OwnWeights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Without a RUN: safetensors to load into it.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes, one thread each; else one with all threads."),
]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="local|ray", help="Who runs the workers; local is a pool.")
]
AgainEvaluate = Annotated[
    bool, typer.Option("--resume", help="Go on after a stop; chips in the ledger are never computed twice.")
]
