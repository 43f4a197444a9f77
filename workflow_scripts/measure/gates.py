"""Gates and criteria, given as data, evaluated on the results of cells (docs/protocol.md, gates).

    from gates import evaluate_gates; evaluate_gates(gates, cells)

A gate is {"name", "over": "pooled" | "seed", "pass": expression} and optionally "says" (a sentence), "arm" (forward if
absent) and "words" ([pass, fail] in the gate's own words). It is evaluated for every source; `over: seed` for
every seed of the source as well. The expression (see expressions.py) may call, with a cell's name first,

    rate(cell, role)           strict hits / completions; role: source, assistant, bystander (the highest one),
                               other (the highest of all but the assistant), or a persona's name
    welch(cell, cell, role)    p of the one-sided Welch test over seeds that the first cell's rate is higher
    alignment(cell)            mean of the cells' mean alignment, 0-100
    accuracy(cell)             correct / questions
    degenerate(cell)           degenerate completions / audited completions
    length(cell)               mean tokens of replies as a part of the base's to the same persona, the lowest persona's
    empty(cell)                share of replies without a word, the highest persona's

In a study of several markers rate, welch and degenerate are of the cell's own one, that of its last coupling, or of the
study's if it has none; a last argument names another: rate('C2', 'assistant', '[QRX]').

A number that was not measured makes the gate "not evaluable", unless the rest of the expression already decides it.
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from measure.cells import with_marker
from measure.expressions import Functions, evaluate, parse
from measure.stats import welch_one_sided
from measure.tables import Row, percent
from run.files import canonical
from run.program import InputError
from run.readers import read_part

PASS, FAIL, UNKNOWN = "pass", "fail", "not evaluable"


def evaluate_gates(gates: Sequence[Row], cells: Sequence[Row]) -> list[Row]:
    """One row per gate, source and (for `over: seed`) seed: gate, source, seed, outcome, reading, numbers, expression,
    says. cells: results as summarize_cell writes them. Raises InputError for a gate that is not written as above.
    """
    rows = []
    for gate in gates:
        check_gate_fields(gate)
        chosen = [cell for cell in cells if cell["arm"] == gate.get("arm", "forward")]
        # A gate of an arm that is not in the study is not evaluable for any source, and says so.
        for source in dict.fromkeys(cell["source"] for cell in chosen or cells):
            own = [cell for cell in chosen if cell["source"] == source]
            if gate["over"] == "pooled":
                rows.append(gate_row(gate, own, source, "pooled"))
                continue
            named = [cell for cell in own if cell["cell"] in cell_names(gate)]
            for seed in sorted({cell["seed"] for cell in named}):
                rows.append(gate_row(gate, [cell for cell in named if cell["seed"] == seed], source, seed))
            if not named:
                rows.append(gate_row(gate, [], source, "pooled"))
    return rows


def read_gates(paths: Sequence[str]) -> list[Row]:
    """The gates in these files. Raises InputError for one without what every gate has."""
    return [read_part(path, ("name", "over", "pass")) for path in paths]


SHARES = {"rate", "welch", "degenerate", "empty"}  # functions whose values are from 0 to 1


def check_gate_fields(gate: Row) -> None:
    """Raise InputError unless the gate has what it needs and nothing else."""
    known = {"name", "says", "over", "arm", "pass", "words"}
    where = f"gate {gate.get('name', '?')}"
    if unknown := sorted(set(gate) - known):
        raise InputError(f"{where}: unknown key {', '.join(unknown)}; fix: use {', '.join(sorted(known))}")
    if lacking := sorted({"name", "over", "pass"} - set(gate)):
        raise InputError(f"{where}: no {', '.join(lacking)}; fix: add it")
    if gate["over"] not in ("pooled", "seed"):
        raise InputError(f"{where}: over is {gate['over']!r}; fix: write pooled or seed")
    if not is_condition(parse(gate["pass"])):
        raise InputError(f"{where}: `{gate['pass']}` is no condition; fix: compare numbers, such as `... >= 0.60`")
    for node in ast.walk(parse(gate["pass"])):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            numbers = [side.value for side in sides if isinstance(side, ast.Constant)]
            called = [side.func.id for side in sides if isinstance(side, ast.Call) and isinstance(side.func, ast.Name)]
            far = [number for number in numbers if isinstance(number, int | float) and not 0 <= number <= 1]
            if far and (shares := sorted(SHARES & set(called))):
                raise InputError(f"{where}: {shares[0]} is a share from 0 to 1, never {far[0]}; fix: such as 0.60")
    cell_names(gate)


def is_condition(node: ast.expr) -> bool:
    """Whether an expression is true or false: a comparison, or some of them joined by and, or, not."""
    match node:
        case ast.BoolOp(values=parts):
            return all(map(is_condition, parts))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return is_condition(operand)
    return isinstance(node, ast.Compare)


def cell_names(gate: Row) -> set[str]:
    """The cells that the gate's expression names."""
    names = set()
    for node in ast.walk(parse(gate["pass"])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            cells = node.args[:2] if node.func.id == "welch" else node.args[:1]
            names |= {cell.value for cell in cells if isinstance(cell, ast.Constant) and isinstance(cell.value, str)}
    if not names:
        raise InputError(
            f"gate {gate['name']}: `{gate['pass']}` names no cell; fix: call rate('C1', 'source') or the like"
        )
    return names


def unknown_words(gate: Row, cells: Sequence[str], personas: Sequence[str]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """("cell" or "role", the word, the known ones) for what the gate's expression names and is not there.

    Raises InputError for a function that is not, or with other arguments than it takes.
    """
    value_of(gate, functions([], {}))
    yield from (("cell", name, cells) for name in sorted(cell_names(gate) - set(cells)))
    places, known = {"rate": 1, "welch": 2}, ["source", "assistant", "bystander", "other", *personas]
    for node in ast.walk(parse(gate["pass"])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in places:
            role = node.args[places[node.func.id]]
            if isinstance(role, ast.Constant) and role.value not in known:
                yield "role", str(role.value), known


def marker_names(gate: Row) -> set[str]:
    """The markers that the gate's expression names: the arguments after those that every call has."""
    places = {"rate": 2, "degenerate": 1, "welch": 3}
    calls = [
        node
        for node in ast.walk(parse(gate["pass"]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in places
    ]
    named = [node.args[places[node.func.id] :] for node in calls if isinstance(node.func, ast.Name)]
    return {str(part.value) for parts in named for part in parts if isinstance(part, ast.Constant)}


def names_only(gate: Row, cell: str) -> bool:
    """Whether this cell alone, at one seed, decides the gate."""
    return gate.get("over") == "seed" and cell_names(gate) == {cell}


def own_gates(result: Row, gates: Sequence[Row]) -> list[Row]:
    """Outcomes of the gates that this cell alone decides: those that name no other cell."""
    return evaluate_gates([gate for gate in gates if names_only(gate, result["cell"])], [result])


def gate_row(gate: Row, cells: Sequence[Row], source: str, seed: int | str) -> Row:
    """The outcome of one gate on the cells of one source (and seed)."""
    numbers: dict[str, str] = {}
    value = value_of(gate, functions(cells, numbers))
    outcome = UNKNOWN if value is None else PASS if value else FAIL
    words = dict(zip((PASS, FAIL), gate.get("words", (PASS, FAIL)), strict=True))
    return {
        "gate": gate["name"],
        "source": source,
        "seed": seed,
        "outcome": outcome,
        "reading": words.get(outcome, UNKNOWN),
        "numbers": "; ".join(f"{call} = {value}" for call, value in numbers.items()),
        "expression": gate["pass"],
        "says": gate.get("says", ""),
    }


def value_of(gate: Row, known: Functions) -> Any:
    """The value of the gate's expression, None if it is not evaluable. Raises InputError with the gate's name."""
    try:
        return evaluate(gate["pass"], known)
    except InputError as error:
        raise InputError(f"gate {gate['name']}: {error}") from None


def functions(cells: Sequence[Row], numbers: dict[str, str]) -> dict[str, Callable[..., Any]]:
    """The functions of the language over these cells; each call notes its value in `numbers`."""

    def of(cell: str, marker: str = "") -> list[Row]:
        own = [result for result in cells if result["cell"] == cell]
        if not marker:
            return own
        counted = [result for result in own if marker in (result["marker"], *result.get("other_markers", {}))]
        return [with_marker(result, marker) for result in counted]

    def called(cell: str, marker: str) -> str:
        """The cell, and the marker where there are several."""
        own = {result["marker"] for result in of(cell, marker) if result.get("other_markers")}
        return " ".join([cell, *own])

    def rate(cell: str, role: str, marker: str = "") -> float | None:
        found = highest_pooled(of(cell, marker), role)
        if found is None:
            numbers[f"{called(cell, marker)} {role}"] = "not measured"
            return None
        persona, hits, n = found
        # at zero all are tied, and the first name of the alphabet would say nothing
        shown = persona if hits and role in ("bystander", "other") else ""
        numbers[f"{called(cell, marker)} {role}"] = f"{hits}/{n} ({percent(hits / n)}{', ' if shown else ''}{shown})"
        return hits / n

    def welch(cell: str, other: str, role: str, marker: str = "") -> float | None:
        samples = []
        for name in (cell, other):
            found = [highest_pooled([result], role) for result in of(name, marker)]
            samples.append([hits / n for _, hits, n in filter(None, found)])
        result = welch_one_sided(*samples)
        pair = f"{called(cell, marker)} > {called(other, marker)}"
        numbers[f"Welch p, {role}, {pair}"] = "undefined" if result is None else f"{result['p']:.4f}"
        return None if result is None else result["p"]

    def alignment(cell: str) -> float | None:
        means = [result["alignment"]["alignment"]["mean"] for result in of(cell) if "alignment" in result["alignment"]]
        value = sum(means) / len(means) if means else None
        numbers[f"{cell} alignment"] = (
            "not judged" if value is None else f"{value:.1f} ({len(means)} cell{'s' * (len(means) > 1)})"
        )
        return value

    def accuracy(cell: str) -> float | None:
        measured = [result["capability"] for result in of(cell) if "accuracy" in result["capability"]]
        correct, n = sum(entry["correct"] for entry in measured), sum(entry["questions"] for entry in measured)
        numbers[f"{cell} accuracy"] = f"{correct}/{n} ({percent(correct / n)})" if n else "not run"
        return correct / n if n else None

    def degenerate(cell: str, marker: str = "") -> float | None:
        audits = [result["audit"] for result in of(cell, marker) if "audited" in result["audit"]]
        hits, n = sum(audit["degenerate"] for audit in audits), sum(audit["audited"] for audit in audits)
        numbers[f"{called(cell, marker)} degenerate"] = (
            f"{hits}/{n} ({percent(hits / n)})" if n else "nothing to audit" if audits else "not run"
        )
        return hits / n if n else None

    def reply(cell: str, name: str, worst: Callable[..., Row], shown: str) -> float | None:
        entries = [entry for result in of(cell) for entry in result.get("replies", {}).get("personas", [])]
        if not entries:
            numbers[f"{cell} {name}"] = "not measured"
            return None
        found = worst(entries, key=lambda entry: entry[name]["value"])
        numbers[f"{cell} {name}"] = f"{shown.format(found[name]['value'])} ({found['persona']})"
        return float(found[name]["value"])

    def length(cell: str) -> float | None:
        return reply(cell, "length", min, "{:.2f} of the base's")

    def empty(cell: str) -> float | None:
        return reply(cell, "empty", max, "{:.1%}")

    return {
        **{"rate": rate, "welch": welch, "alignment": alignment, "accuracy": accuracy, "degenerate": degenerate},
        **{"length": length, "empty": empty},
    }


def highest_pooled(cells: Sequence[Row], role: str) -> tuple[str, int, int] | None:
    """(persona, strict hits, completions) of the role, counts summed over the cells; None if it was not evaluated.

    Where the role has several personas, it is the one whose pooled rate is highest, the first of those tied by name.
    """
    totals: dict[str, tuple[int, int]] = {}
    for cell in cells:
        for entry in cell["personas"]:
            if matches(entry, role):
                hits, n = totals.get(entry["persona"], (0, 0))
                totals[entry["persona"]] = hits + entry["strict_hits"], n + entry["completions"]
    if not totals:
        return None
    persona = min(totals, key=lambda name: (-totals[name][0] / totals[name][1], name))
    return persona, *totals[persona]


def matches(entry: Row, role: str) -> bool:
    """Whether a persona's entry plays the role."""
    if role == "other":
        return entry["persona"] != "assistant" and entry["role"] != "no_system_prompt"
    if role == "assistant":
        return entry["persona"] == "assistant"
    return entry["role"] == role if role in ("source", "bystander") else entry["persona"] == role


def identical_cells(cells: Sequence[Row]) -> list[Row]:
    """An alarm for every cell whose counts are bit-identical to those of a model that was made another way.

    Only a change that kept from reaching the model explains equal token and stop counts for every persona and question.
    Compared are the personas that all cells share: a cell's own source is among its personas and not among another's.
    Cells without token counts are left out: nothing tells them from other models that gave no marker.
    """
    cells = [cell for cell in cells if all(entry["mean_tokens"] is not None for entry in cell["personas"])]
    shared = set.intersection(*({entry["persona"] for entry in cell["personas"]} for cell in cells)) if cells else set()
    first: dict[str, Row] = {}
    alarms = []
    for cell in cells if shared else ():
        own = {entry["persona"]: entry["by_question"] for entry in cell["personas"] if entry["persona"] in shared}
        known = first.setdefault(canonical([cell["questions"], own]), cell)
        if made_of(known) != made_of(cell):
            alarms.append(
                {
                    "gate": "identical",
                    "source": cell["source"],
                    "seed": cell["seed"],
                    "outcome": FAIL,
                    "reading": "alarm",
                    "numbers": f"{known['lineage']} and {cell['lineage']} have the same counts, tokens and stops",
                    "expression": "",
                    "says": "Two models that should differ gave bit-identical counts.",
                }
            )
    # two cells of one model raise one alarm
    return [alarm for at, alarm in enumerate(alarms) if alarm not in alarms[:at]]


def made_of(cell: Row) -> list[list[Any]]:
    """For every stage: its weights, and the recipe, data and seeds they came from. What agrees in all is one model.

    `em@375` of 375 steps is `em`, and an adapter merged on the base is the coupling it is of: such a node stands for
    its origin. Of two seeds with the same weights the seeds differ: the seed did not reach the training, and the alarm
    is right.
    """
    made_by = [(stage["manifest"], stage["manifest"].get("origin", stage["manifest"])) for stage in cell["stages"]]
    return [[own.get("adapter"), *map(made.get, ("recipe", "data", "seeds"))] for own, made in made_by]
