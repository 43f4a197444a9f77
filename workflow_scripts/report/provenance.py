"""What a report's numbers rest on: every stage with its manifest, data sets, cells, and versions."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from measure.tables import Row
from report.completions_view import key_of
from report.fields import Field, Table, plain
from run.readers import read_json


def nodes_of(cells: Sequence[Row]) -> list[Row]:
    """lineage, sha256 and manifest (JSON for people) of every stage of these cells, each once."""
    stages = {stage["lineage"]: stage for cell in cells for stage in cell["stages"]}
    return [
        {
            "lineage": lineage,
            "sha256": stage["manifest_sha256"],
            "manifest": json.dumps(stage["manifest"], sort_keys=True, indent=1, ensure_ascii=False),
        }
        for lineage, stage in sorted(stages.items())
    ]


def cells_table(cells: Sequence[Row], notes: Mapping[str, str]) -> Table:
    """A row per cell: what it is made of. notes: by the cell's name."""
    rows = [
        [
            replace(plain(key_of(cell), "name"), more=notes.get(cell["cell"], "")),
            plain(cell["arm"]),
            plain(cell["lineage"], "code"),
            plain(settings(cell["evaluation"]), "long"),
            plain(cell["counts_sha256"], "hash"),
        ]
        for cell in cells
    ]
    return Table("cells", "Cells", ["cell", "arm", "lineage", "evaluation", "sha256 of its counts"], rows)


def settings(evaluation: Row) -> str:
    """main: max_tokens 512, samples 10, ..."""
    rest = ", ".join(f"{name} {value}" for name, value in sorted(evaluation.items()) if name != "name")
    return f"{evaluation['name']}: {rest}" if rest else str(evaluation["name"])


def versions_table(records: Sequence[Row]) -> Table:
    """A row per package and version, and per commit of the workflow: how many of the runs used it."""
    versions = Counter(pair for record in records for pair in record.get("versions", {}).items())
    commits = Counter(record.get("git_commit") or "outside a git checkout" for record in records)
    rows = [[plain(package), plain(version, "code"), plain(n)] for (package, version), n in sorted(versions.items())]
    rows += [[Field("workflow, git commit"), plain(commit, "code"), plain(n)] for commit, n in sorted(commits.items())]
    return Table("versions", "Versions", ["package", "version", "runs"], rows)


def dataset_table(paths: Sequence[str]) -> Table:
    """A row per data set's manifest: where its rows come from, and whether they are the published file."""
    verdict = {True: "the published file", False: "NOT the published file", None: "no published md5"}
    rows = []
    for path in paths:
        record = read_json(path, dict)
        origin = "@".join(str(record[part]) for part in ("repo", "commit") if part in record) or "your own file"
        rows.append(
            [
                plain(Path(path).name.removesuffix(".manifest.json"), "name"),
                plain(origin, "code"),
                plain(record["rows"]),
                plain(verdict[record["matches_published"]]),
                plain(record["md5"], "hash"),
                plain(record["sha256"], "hash"),
            ]
        )
    return Table("datasets", "Data sets", ["data set", "origin", "rows", "is it", "md5", "sha256"], rows)
