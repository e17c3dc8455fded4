"""The end of a run: a report that a person reads and the same numbers for a program."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a Markdown table, columns padded so that it also reads well in a terminal."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def write_text(path: Path | str, text: str) -> None:
    """Writes a whole file or none: into a neighbour first, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def write_json(path: Path | str, data: Mapping[str, Any]) -> None:
    """`write_text` of indented JSON; what JSON cannot say is written as its string."""
    write_text(path, json.dumps(data, indent=2, default=str, ensure_ascii=False) + "\n")


def write_report(workdir: Path | str, text: str, data: Mapping[str, Any]) -> None:
    """`report.md` and `report.json` in a workdir, by the first process of the run."""
    if jax.process_index() == 0:
        write_text(Path(workdir) / "report.md", text.rstrip() + "\n")
        write_json(Path(workdir) / "report.json", data)
