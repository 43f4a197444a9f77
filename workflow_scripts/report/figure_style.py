"""One look for all figures: colours, order, fonts and files.

from figure_style import new_figure, save
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run.files import partial

# Okabe and Ito (2008): told apart with any colour vision; these three also differ in lightness, so in grey too.
COLOURS = {"source": "#D55E00", "bystander": "#56B4E9", "assistant": "#004166"}
HATCHES = {"source": "", "bystander": "////", "assistant": ""}
NAMES = {"source": "source", "bystander": "highest bystander", "assistant": "assistant"}
ROLES = ("source", "bystander", "assistant")
MARKS = {"source": "o", "bystander": "^", "assistant": "s"}
# Yes, no, unknown: neither good nor bad (KILL is one of them), told apart in grey too, and labelled with a word.
OUTCOMES = {"pass": "#A6D3EA", "fail": "#004166", "not evaluable": "#EEEEEE"}
TEXT_ON = {"pass": "#222222", "fail": "white", "not evaluable": "#222222"}
LINES = ("#D55E00", "#004166", "#56B4E9", "#8A8A8A")  # of curves that are no roles
INK, FAINT = "#222222", "#8A8A8A"
GRID = "#E6E6E6"
# Inches: the width of a page of text, at which 8 points are read without effort.
WIDTH = 7.2


def new_figure(height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """(figure, axes) at page width in the common style."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcdefaults()
    plt.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 8,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "axes.axisbelow": True,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "ytick.major.size": 0,
            "hatch.linewidth": 0.6,
            "hatch.color": "white",
            "legend.frameon": False,
            "pdf.fonttype": 42,
            "svg.fonttype": "none",
            # A fixed salt keeps the ids in the SVG, and with them the file, the same from run to run.
            "svg.hashsalt": "figure",
        }
    )
    return plt.subplots(rows, columns, figsize=(WIDTH, height), layout=steady_layout(), squeeze=False, **options)


def steady_layout() -> Any:
    """Constrained layout, to a billionth of the figure.

    Its solver's last digits depend on where in memory things lie, and the ids in an SVG on all digits.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    class SteadyLayout(ConstrainedLayoutEngine):
        def execute(self, fig: Any) -> None:
            super().execute(fig)
            for axes in fig.axes:
                axes.set_position([round(value, 9) for value in axes.get_position(original=True).bounds])
                axes.set_in_layout(True)  # which set_position ends

    return SteadyLayout()


def rate_axis(axes: Any, top: float = 1.0) -> None:
    """A percentage axis up to `top` with a quiet grid."""
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(-0.015 * top, top)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=GRID, linewidth=0.6)


def rectangle(x: float, y: float, width: float, height: float, colour: Any, **edge: Any) -> Any:
    """A filled rectangle, without an edge unless one is given."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=colour, **{"linewidth": 0} | edge)


def caption(figure: Any, lines: Sequence[str]) -> None:
    """Small text under the figure."""
    figure.supxlabel("\n".join(lines), x=0.008, ha="left", fontsize=7, color="#444444", linespacing=1.35)


def save(figure: Any, prefix: str) -> None:
    """Write prefix.png (200 dpi), .pdf and .svg, without dates, so that equal data give equal files."""
    import matplotlib.pyplot as plt

    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "svg": {"Date": None, "Creator": None},
    }
    for kind, fields in metadata.items():
        with partial(Path(f"{prefix}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=200, metadata=fields)
    plt.close(figure)
