"""Writes the report's three files, and prints its table."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deepseek_client.errors import ClientError
from deepseek_client.local.folders import write_atomically
from deepseek_client.local.history import History
from deepseek_client.report.figure import draw
from deepseek_client.report.summary import Summary, markdown, rows


def write(folder: Path, summary: Summary, history: History) -> list[Path]:
    """Writes report.png, report.md and report.json into the folder, and answers their paths.

    Raises:
        ClientError: the folder can't be written.
    """
    png, page, data = (folder / f"report.{suffix}" for suffix in ("png", "md", "json"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw(history, summary, png)
        write_atomically(page, markdown(summary))
        text = json.dumps({"summary": summary.as_json(), "history": history.as_json()}, indent=1)
        write_atomically(data, text + "\n")
    except OSError as error:
        raise ClientError(f"report folder {folder}: {error.strerror or error}; choose another with --report") from error
    return [png, page, data]


def table(console: Console, summary: Summary) -> None:
    """Prints the summary."""
    grid = Table(title=f"{summary.job}: {summary.state}", show_header=False, title_style="bold")
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows(summary):
        grid.add_row(name, value)
    console.print(grid)
