r"""Draw one figure of the study from its tables, as PNG, PDF and SVG.

    python workflow_scripts/plot_figures.py --figure marker_destruction --tables results/tiny/tables --source evil_ai \
        --meaning results/tiny/study/figures/marker_destruction.json \
        --study tiny --label "rehearsal on a toy model, no evidence about Qwen2.5-7B" \
        --output-prefix results/tiny/figures/marker_destruction_evil_ai
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report.detail_figures import length_hits, persona_heatmap, question_strip
from report.distance_figure import distance
from report.figure_study import FigureData
from report.figure_style import save
from report.floor_figure import below_floor
from report.gates_figure import gates_figure
from report.rate_figures import marker_destruction, reversed_order
from report.retention_figure import retention
from report.stage_figures import layers, plane
from report.step_figures import dose_curve, relearning
from run.program import InputError, run
from run.readers import read_part

FIGURES: dict[str, Callable[[FigureData], Any]] = {
    "marker_destruction": marker_destruction,
    "retention": retention,
    "reversed_order": reversed_order,
    "dose_curve": dose_curve,
    "persona_heatmap": persona_heatmap,
    "question_strip": question_strip,
    "length_hits": length_hits,
    "gates": gates_figure,
    "below_floor": below_floor,
    "relearning": relearning,
    "plane": plane,
    "layers": layers,
    "distance": distance,
}


def main() -> None:
    """Parse the arguments and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", choices=sorted(FIGURES), default="marker_destruction")
    parser.add_argument("--tables", required=True, type=Path, help="folder of the study's tables")
    parser.add_argument("--study", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--meaning", required=True, help="JSON file: the part `figures/<figure>` of graph/resolved.py")
    parser.add_argument("--label", default="", help="what a reader must know of this study, put under the figure")
    parser.add_argument("--output-prefix", required=True, help="path without the ending")
    arguments = parser.parse_args()
    meaning = read_part(arguments.meaning, ("arms", "captions", "last_stages"))
    study = FigureData(arguments.tables, arguments.study, arguments.source, arguments.label, **meaning)
    if not study.rows("pooled"):
        raise InputError(f"{study.tables}/pooled.csv: no row of source {study.source}; fix: pass a source of the study")
    save(FIGURES[arguments.figure](study), arguments.output_prefix)


if __name__ == "__main__":
    run(main)
