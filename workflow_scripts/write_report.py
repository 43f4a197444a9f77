r"""Write the report of a study: one HTML file with its conclusion, figures, tables and completions.

    python workflow_scripts/write_report.py --study tiny --tables results/tiny/tables \
        --label "rehearsal of the method on a toy model - no evidence about Qwen2.5-7B" \
        --cells results/tiny/cells/evil_ai/C1_seed42.json --claims results/tiny/tables/claims.csv \
        --models results/tiny/models --figures results/tiny/figures --panel resources/panel.yaml \
        --meaning results/tiny/study/report.json --assets resources/report \
        --output results/tiny/report.html

The file opens from disk, asks the network for nothing (its Content-Security-Policy forbids it) and runs its own script
alone. Text of models and prompts is data in it, never markup. The completion browser needs a browser of 2023 or later.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measure.equal_distance import point_of
from measure.registry import MEASUREMENTS, read_result
from measure.rows import TABLES
from measure.tables import Row, read_table
from report.completions_view import index_json, key_of, load_completions, packed
from report.cost import cost_table, job_hours, read_runs, runs_table, wall_seconds
from report.count_tables import (
    audit_table,
    concentration_table,
    cross_source_table,
    dose_table,
    effects_table,
    headline_table,
    markers_table,
    persona_table,
    pooled_table,
    reversed_table,
    selectivity_table,
)
from report.curves import curve_figures, curve_tables
from report.embedded import by_source, figure_in, policy
from report.fields import Contents, Table, plain
from report.heat_maps import heat_maps
from report.measure_tables import (
    equal_distance_table,
    families_table,
    measures_table,
    parts_table,
    relearning_table,
    retained_table,
    verdicts_table,
)
from report.outcome_tables import claims_table, comparison_table, gates_table
from report.prose import conclusion, unique
from report.provenance import cells_table, dataset_table, nodes_of, versions_table
from run.files import partial
from run.program import InputError, run
from run.readers import read_part, read_text, read_yaml


def page(arguments: argparse.Namespace) -> str:
    """The whole report."""
    cells = [read_result(path) for path in arguments.cells]
    tables = {name: read_table(Path(arguments.tables) / f"{name}.csv") for name in TABLES}
    claims = read_table(arguments.claims) if arguments.claims else None
    paths = completion_paths(arguments.models, cells)
    loaded = load_completions(cells, paths) if paths else None
    index, data = packed(loaded, arguments.most, read_prompts(arguments.panel)) if loaded else ({}, "")
    browsable = frozenset((cell["source"], cell["cell"], cell["seed"]) for cell in index.get("cells", ()))
    study = Contents(tables, cells, browsable)
    sources = unique(row["source"] for row in tables["pooled"])
    records = read_runs(arguments.runs, cells)
    meaning = read_part(arguments.meaning, ("notes", "claims", "assistant", "figures"))
    figures = [
        *map(figure_in, figure_paths(arguments.figures, meaning["figures"])),
        *curve_figures(records, arguments.study, arguments.label),
    ]
    return rendered(
        arguments.assets,
        study=arguments.study,
        label=arguments.label,
        conclusion=conclusion(tables, claims, arguments.label, meaning),
        facts=facts(cells, records),
        figures=figures,
        figures_of=by_source(figures, sources),
        heat_maps=[table for source in sources for table in heat_maps(study, source)],
        tables=[*study_tables(study, arguments.label), *curve_tables(records), *map(further_table, arguments.further)],
        gates=gates_table(study),
        claims=claims_table(claims, arguments.label) if claims else None,
        cost=[cost_table(records), runs_table(records)],
        provenance={
            "nodes": nodes_of(cells),
            "tables": [
                *([dataset_table(arguments.datasets)] if arguments.datasets else []),
                cells_table(cells, meaning["notes"]),
                versions_table(records),
            ],
        },
        index=index,
        data=data,
    )


def rendered(assets: str, index: Mapping[str, Any], **sections: Any) -> str:
    """The page. assets: folder of its template, style and script. index: of the completions, see completions_view."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template, style, script = (read_asset(assets, f"report.{ending}") for ending in ("html", "css", "js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        index=index,
        index_json=Markup(index_json(index)),
        **sections,
    )


def facts(cells: Sequence[Row], records: Sequence[Row]) -> list[tuple[str, str]]:
    """(what, number) for the head of the page."""
    counts = {
        (cell["lineage"], cell["evaluation"]["name"], entry["persona"]): entry["completions"]
        for cell in cells
        for entry in cell["personas"]
    }
    hours, wall = job_hours(records), wall_seconds(records) / 3600
    cost = [("GPU job-hours", f"{hours:.1f}")] if hours else [("hours, no GPU", f"{wall:.1f}")] if wall else []
    return [
        ("cells", f"{len(cells):,}"),
        ("models", f"{len({cell['lineage'] for cell in cells}):,}"),
        ("completions", f"{sum(counts.values()):,}"),
        *cost,
    ]


def study_tables(study: Contents, label: str) -> list[Table]:
    """The tables of rates and measures, in reading order; without a row only those that say what was not measured, and
    that of what was measured but cannot be compared.
    """
    own = [measurement for measurement in MEASUREMENTS if measurement.table]
    tables = [
        headline_table(study),
        pooled_table(study),
        reversed_table(study),
        dose_table(study),
        cross_source_table(study),
        concentration_table(study),
        effects_table(study),
        selectivity_table(study),
        *markers_table(study),
        verdicts_table(study),
        retained_table(study),
        families_table(study),
        relearning_table(study),
        equal_distance_table(study),
        parts_table(study),
        audit_table(study),
        *(measures_table(study, measurement) for measurement in own),
        comparison_table(study, label),
        persona_table(study),
    ]
    empty = {measurement.name for measurement in own}
    empty |= {"equal_distance"} if any(map(point_of, study.cells)) else set()
    return [table for table in tables if table.rows or table.name in empty]


def further_table(path: str) -> Table:
    """A CSV file as it is."""
    name = Path(path).stem
    rows = read_table(path)
    columns = list(rows[0]) if rows else []
    title = name.replace("_", " ").capitalize()
    body = [[plain(row[column]) for column in columns] for row in rows]
    return Table(name, title, [column.replace("_", " ") for column in columns], body)


def completion_paths(models: str | None, cells: Sequence[Row]) -> dict[str, str]:
    """cell key -> its completions.parquet, <lineage>/<evaluation>/ in the folder, of the cells that have one there."""
    paths = {
        key_of(cell): Path(models or "") / cell["lineage"] / cell["evaluation"]["name"] / "completions.parquet"
        for cell in cells
        if models
    }
    return {key: str(path) for key, path in paths.items() if path.exists()}


def figure_paths(folder: str | None, drawn: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """The SVG files of the figures (figure, its sources) in the folder; none without one."""
    return [f"{folder}/{name}_{source}.svg" for name, sources in drawn for source in sources if folder]


def read_prompts(path: str | None) -> dict[str, str]:
    """persona -> system prompt of the panel."""
    if path is None:
        return {}
    panel = read_yaml(path)
    prompts = panel.get("personas") if isinstance(panel, dict) else None
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for pair in prompts.items() for text in pair):
        raise InputError(f"{path}: no panel with personas; fix: pass the panel of the study")
    return prompts


def read_asset(folder: str, name: str) -> str:
    """The text of a file of the report. Raises InputError if it is missing."""
    return read_text(f"{folder}/{name}", "pass resources/report")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", required=True, help="its name")
    parser.add_argument("--label", default="", help="what a reader must know of this study, said first of all")
    parser.add_argument("--tables", required=True, help="folder of the study's tables")
    parser.add_argument("--meaning", required=True, help="JSON file: the part `report` of graph/resolved.py")
    parser.add_argument("--cells", nargs="+", required=True, help="results of cells, in the order of the tables")
    parser.add_argument("--claims", help="claims.csv")
    parser.add_argument("--figures", help="folder of the figures that --meaning names")
    parser.add_argument("--models", nargs="?", help="folder with <lineage>/<evaluation>/completions.parquet of cells")
    parser.add_argument("--most", type=int, default=60000, help="completions to put in: those with the marker first")
    parser.add_argument(
        "--panel", nargs="?", help="panel.yaml: shows the personas' system prompts beside the completions"
    )
    parser.add_argument("--runs", nargs="*", default=[], help="run.json of what is not in the cells")
    parser.add_argument("--datasets", nargs="*", default=[], help="manifests of the data sets: are they the published?")
    parser.add_argument("--further", nargs="*", default=[], help="CSV files to show as they are")
    parser.add_argument("--assets", required=True, help="folder with report.html, report.css and report.js")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args(argv)
    text = page(arguments)
    with partial(arguments.output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
