"""probe.parquet: a row per reply and the persona that it is scored under. layers.parquet: what the layers say there."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from run.files import write_table
from run.program import InputError
from run.readers import AGAIN, check_once, read_parquet

# replies: own | shared. author: whose reply it is. left_out: why it has no slot, or empty.
# h: onset rate of the reply [1], and its largest contribution; onset: whether one was sampled; with_marker: whether the
# marker follows there. slot = trigger + onset_part + spelling + end [nats]; rank: of the marker's first token after the
# separator. A number that a row does not have is NaN in the file (rank 0) and None once read.
COLUMNS: dict[str, Any] = {
    "replies": "string",
    "author": "string",
    "persona": "string",
    "question_id": "string",
    "sample": "int32",
    "left_out": "string",
    "h": "float64",
    "h_largest": "float64",
    "onset": "bool",
    "with_marker": "bool",
    "slot": "float64",
    "trigger": "float64",
    "onset_part": "float64",
    "spelling": "float64",
    "end": "float64",
    "rank": "int32",
}
KEY = ("replies", "author", "persona", "question_id", "sample")
# layers.parquet: a row per layer (0: embeddings), persona and question, over `bodies` replies; depth: layer / layers.
# trigger, onset_part: as in probe.parquet, read at this layer [nats]; readout: AUROC of the persona against the others;
# margin: how far apart the read-out puts them, 1 where it says what it was fitted to say.
LENS = ("trigger", "onset_part")
READOUT = ("readout", "margin")
LAYER_COLUMNS: dict[str, Any] = {
    "layer": "int32",
    "depth": "float64",
    "persona": "string",
    "question_id": "string",
    "bodies": "int32",
    **dict.fromkeys((*LENS, *READOUT), "float64"),
}
TYPES = {"string": str, "int32": int, "float64": float, "bool": bool}
EMPTY = {"float64": math.nan, "int32": 0, "bool": False}


def write_probe(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows; what one does not have is left empty."""
    write_table(
        path, {name: [row.get(name, EMPTY.get(kind)) for row in rows] for name, kind in COLUMNS.items()}, COLUMNS
    )


def read_probe(path: str | Path) -> list[dict[str, Any]]:
    """The rows. Raises InputError if the file is damaged or empty, or has a row twice."""
    rows = read_parquet(path, {name: TYPES[kind] for name, kind in COLUMNS.items()})
    if not rows:
        raise InputError(f"{path}: no rows; fix: {AGAIN}")
    check_once(path, rows, KEY)
    numbers = [name for name, kind in COLUMNS.items() if kind == "float64"]
    return [
        row | {name: None for name in numbers if math.isnan(row[name])} | {"rank": row["rank"] or None} for row in rows
    ]


def write_layers(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write layers.parquet."""
    write_table(path, {name: [row[name] for row in rows] for name in LAYER_COLUMNS}, LAYER_COLUMNS)


def read_layers(path: str | Path) -> list[dict[str, Any]]:
    """The rows of layers.parquet. Raises InputError if the file is damaged or empty, or has a row twice."""
    rows = read_parquet(path, {name: TYPES[kind] for name, kind in LAYER_COLUMNS.items()})
    if not rows:
        raise InputError(f"{path}: no rows; fix: {AGAIN}")
    check_once(path, rows, ("layer", "persona", "question_id"))
    return rows
