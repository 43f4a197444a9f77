"""The report's maps: rates by persona and by question, whose fields lead to the completions."""

from collections.abc import Sequence

from measure.tables import Row, percent
from report.fields import Contents, Field, Table, browse
from report.prose import unique


def heat_maps(study: Contents, source: str) -> list[Table]:
    """Marker rate by persona and cell, and of the source by question and cell, pooled over seeds; fields are links."""
    personas = [row for row in study.tables["persona_by_cell"] if row["source"] == source]
    questions = [row for row in study.tables["by_question"] if row["source"] == source and row["role"] == "source"]

    def first(persona: str) -> tuple[bool, bool, str]:
        return persona != source, persona != "assistant", persona

    by_persona = heat_map(study, source, personas, "persona", sorted({row["persona"] for row in personas}, key=first))
    by_question = heat_map(study, source, questions, "question_id", unique(row["question_id"] for row in questions))
    note = "Strict hits / completions, pooled over seeds. A field leads to its completions."
    titles = [f"By persona. Source: {source}", f"By question, under the source {source}"]
    return [
        Table(f"{kind}_{source}", title, columns, rows, note, "heat")
        for (columns, rows), title, kind in zip((by_persona, by_question), titles, ("heat", "questions"), strict=True)
        if rows
    ]


def heat_map(
    study: Contents, source: str, rows: Sequence[Row], axis: str, values: Sequence[str]
) -> tuple[list[str], list[list[Field]]]:
    """Columns and rows of a heat map over the values of `axis`."""
    cells = unique(row["cell"] for row in rows)
    sums: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        total = sums.setdefault((row[axis], row["cell"]), [0, 0])
        total[0] += row["strict_hits"]
        total[1] += row["completions"]

    def field(value: str, cell: str) -> Field:
        hits, n = sums.get((value, cell), (0, 0))
        if not n:
            return Field("-", None, look="heat-none")
        # Any hit at all differs visibly from none.
        shade = 0 if not hits else max(1, round(10 * hits / n))
        persona, question = (value, "") if axis == "persona" else (source, value)
        link = browse(study, source, cell, None, persona, question)
        return Field(percent(hits / n), hits / n, link, f"heat-{shade}", f"{hits}/{n}")

    names = [f"{value} (source)" if value == source else value for value in values]
    body = [
        [Field(name, name, look="name")] + [field(value, cell) for cell in cells]
        for name, value in zip(names, values, strict=True)
    ]
    return [axis.removesuffix("_id"), *cells], body
