"""``neurosim data``: the data sets, and fetching them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from neurosim import console
from neurosim.commands.options import DataDir, Json

if TYPE_CHECKING:
    from neurosim.data import DataSet

app = typer.Typer(no_args_is_help=True, help="The data sets, and fetching them.")


@app.command("list")
def data_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """The data sets, and which of them are on this machine."""
    from neurosim.data import info, names, places

    def where(row: DataSet) -> str | None:
        return "embedded" if row.embedded else str(places.find(row, data_dir) or "") or None

    def missing(row: DataSet) -> str:
        return f"neurosim data get {row.name}" if row.fetchable else "no public file"

    found = [info(name) for name in names()]
    rows = [
        {
            "name": row.name,
            "summary": row.summary,
            "licence": row.licence,
            "source": row.source,
            "where": where(row),
        }
        for row in found
    ]
    lines = [(row.name, f"{row.summary} [{where(row) or missing(row)}]") for row in found]
    console.emit(rows, console.columns(lines), as_json)


@app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME")], data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Fetch a data set from its publisher, unless it is here; a stopped download goes on where it stopped."""
    from neurosim import data

    with console.Progress(name, "bytes") as progress:
        folder = data.get(name, data_dir, progress=lambda file, done, total: progress.show(done, total, file))
    where = "comes with neurosim" if folder is None else str(folder)
    console.emit(
        {"name": name, "folder": None if folder is None else str(folder)}, f"{name}: {where}", as_json
    )
