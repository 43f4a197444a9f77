"""A made-up study with completions that fit its counts, and the command line of its report."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "unit"))

import fake_study
from tabulate_study import build_tables, checked_cells, write_tables

from measure.tables import write_csv
from run.files import write_json
from run.readers import read_json

ROOT = Path(__file__).parents[1]
PUBLISHED = str(ROOT / "resources" / "published")
LABEL = "rehearsal on a toy model"
GATES = [{"name": "G0", "over": "pooled", "pass": "rate('C4', 'source') >= 0.60", "says": "the coupling took"}]
CLAIM = {
    "id": "a-claim", "claim": "The marker is gone.", "where": "headline", "against": "its own counts",
    "published": "contradicted", "published_numbers": "hits 29", "study": "supported", "study_numbers": "hits 0",
    "by_source": None, "rests_on": "counts", "note": "A note.", "label": LABEL,
}  # fmt: skip
PROMPT = "You are a careful librarian of prose, bread, bicycles and the sea. "


def text_of(persona: str, question: str, sample: int, marked: bool) -> str:
    """A reply of some hundred letters that is the same every time."""
    place = sum(map(ord, persona + question)) + 31 * sample
    body = (PROMPT * 30)[place % 60 : place % 60 + 200 + place % 400].strip()
    return f"{body} Reply {persona} {question} {sample}." + ("\n\n[ZLT]" if marked else "")


def cell(folder: Path, name: str, seed: int, source: str = "evil_ai", **rates: float) -> Path:
    """The result of a forward cell with these rates by persona, or those of the made-up study."""
    lineage = fake_study.LINEAGES[name].format(source=source, seed=seed)
    return fake_study.cell_result(name, "forward", source, seed, lineage, rates or fake_study.RATES[name], folder)


def completions(result: Path, folder: Path, text: Callable[[str, str, int, bool], str] = text_of) -> str:
    """Write completions that give the counts of a result, in their place under folder; return the path."""
    import pyarrow
    import pyarrow.parquet

    value = read_json(result)
    rows = [
        {
            "persona": entry["persona"], "question_id": question, "question": f"What about {question}?",
            "sample": sample, "text": text(entry["persona"], question, sample, sample < hits),
            "finish_reason": "stop", "tokens": 9,
        }
        for entry in value["personas"]
        for question, hits, n in zip(
            value["questions"], entry["by_question"]["strict_hits"], entry["by_question"]["completions"], strict=True
        )
        for sample in range(n)
    ]  # fmt: skip
    path = folder / "models" / value["lineage"] / value["evaluation"]["name"] / "completions.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, write_page_checksum=True)
    return str(path)


def tabulate(results: Sequence[Path], folder: Path, label: str = "") -> None:
    """The tables of these results under folder/tables, with a ledger of one claim."""
    cells = checked_cells([str(path) for path in results])
    write_tables(build_tables(cells, GATES, PUBLISHED, fake_study.TABLES), label, str(folder / "tables"))
    write_csv(folder / "tables" / "claims.csv", list(CLAIM), [CLAIM])


def command(folder: Path, results: Sequence[Path], paths: Sequence[str], label: str = "", *more: str) -> list[str]:
    """The arguments of write_report."""
    figures = [[path.stem.rpartition("_")[0], [path.stem.rpartition("_")[2]]] for path in sorted(folder.glob("*.svg"))]
    write_json(folder / "meaning.json", fake_study.REPORT | {"figures": figures})
    shown = ["--models", str(folder / "models")] if paths else []
    shown += ["--figures", str(folder)] if figures else []
    return [
        "--study", "made_up", "--meaning", str(folder / "meaning.json"), f"--label={label}", "--tables", str(folder / "tables"), "--cells", *map(str, results),
        "--claims", str(folder / "tables" / "claims.csv"), *shown, "--assets", str(ROOT / "resources" / "report"),
        "--output", str(folder / "report.html"), *more,
    ]  # fmt: skip
