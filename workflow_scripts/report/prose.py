"""Verdicts in English: the sentences a report opens with, from tables and the claims ledger."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from graph.lineage import parse_lineage
from measure.tables import Row, counted

# The conclusion says of a cell, and of the assistant, what the ledger's verdict on a claim allows; of a cell without a
# claim what was counted. By counting: whether a coupling survived is for the probe to say.
FATES = {
    "supported": "was hardly given any more after {}",
    "contradicted": "was still given after {}",
    "undecided": "may or may not have been given after {}",
    "not tested": "was not put to the test by {}",
}
MOVES = {
    "supported": "did not move to the assistant",
    "contradicted": "moved to the assistant",
    "undecided": "may or may not have moved to the assistant",
    "not tested": "was not put to the test of moving to the assistant",
    None: "was counted under the assistant",
}
OTHER_ORDER = ("reversed", "matched")  # arms in which the coupling comes last


def unique(values: Iterable[Any]) -> list[Any]:
    """The distinct values in order of first occurrence."""
    return list(dict.fromkeys(values))


def conclusion(tables: dict[str, list[Row]], claims: Sequence[Row] | None, label: str, meaning: Row) -> list[str]:
    """Four sentences: is the marker still given, is the coupling gone or below sampling, did it move to the assistant,
    what became of the claims; and, where a second stage was taken apart, what it takes for the marker to come back. Of
    every further arm with coupled cells one sentence more.

    meaning: which claims they rest on, see graph/resolved.py. Before them, an alarm of models that should differ and do
    not; before the last, which gates of single seeds failed, such as those that the couplings had to pass. Counting
    cannot tell gone from suppressed: the second says what the probe says, or that nothing was probed.
    """
    first = survival_sentence(tables, claims, meaning["claims"])
    second = assistant_sentence(tables, claims, meaning["assistant"])
    if label:
        first = f"{label[0].upper()}{label[1:]}: {first[0].lower()}{first[1:]}"
    below = below_floor_sentences(tables["verdicts"], tables["headline"])
    below += strength_sentences(tables["measures"])
    below += arm_sentences(tables, claims, meaning["claims"])
    gates = tables["gates"]
    return [*alarms(gates), first, *below, second, *failed_gates(gates), ledger_sentence(claims, tables)]


def below_floor_sentences(verdicts: Sequence[Row], headline: Sequence[Row]) -> list[str]:
    """One sentence with the study's verdicts on the persona gap of the log-odds, or that there are none.

    None if no source was coupled and then trained further, so that there is nothing to ask.
    """
    blind = "That is by counting, which cannot tell a coupling that is gone from one that is only below sampling"
    if parts := probed(verdicts, "forward"):
        return [f"{blind}; by what is left of the persona gap in the marker's log-odds, {parts}."]
    return [f"{blind}; nothing was probed, so that stays open."] if coupled_cells(headline)[1] else []


def probed(verdicts: Sequence[Row], arm: str) -> str:
    """The verdicts on an arm's cells, over all seeds, on each text that was probed; "" without any."""
    study = [row for row in verdicts if (row["quantity"], row["arm"], row["seed"]) == ("slot", arm, "all")]
    parts = []
    for replies, where in (("shared", "on one shared text"), ("own", "on each model's own replies")):
        alike: dict[tuple[str, ...], list[str]] = {}
        for row in study:
            if row["replies"] == replies:
                some = f"{seeds_weighed(row)} seeds" if row["seeds"] < row["seeds_made"] else ""
                alike.setdefault((row["verdict"], row["source"], some), []).append(row["cell"])
        said = [
            f"{verdict} in {listed(own)} of {source}" + (f" ({some}{' each' * (len(own) > 1)})" if some else "")
            for (verdict, source, some), own in alike.items()
        ]
        if said:
            parts.append(f"{where} it is {listed(said)}")
    return "; ".join(parts)


def seeds_weighed(row: Row) -> str:
    """`2 of 3`: how many of a cell's seeds a row of verdicts.csv rests on; "" of a single seed's."""
    return "" if row["seeds"] is None else f"{row['seeds']} of {row['seeds_made']}"


def strength_sentences(measures: Sequence[Row]) -> list[str]:
    """One sentence on how far a second stage must be weakened for the marker to come back, or none."""
    rows = [row for row in measures if row["measure"] == "even_beta_slot" and (row["value"] or 1) < 1]
    said = [
        f"{row['value']:.2f} of its strength in {row['cell']} of {row['source']} (seed {row['seed']})" for row in rows
    ]
    if not said:
        return []
    return [
        "Weakened, the second stage lets the marker come back: after a reply to the source, marker and end of turn are "
        f"equally likely at {listed(said)}."
    ]


def equal_distance_sentences(rows: Sequence[Row]) -> list[str]:
    """A sentence per source and pair of stages: whose gap is larger at how many distances. rows: equal_distance.csv."""
    pairs: dict[tuple[str, frozenset[str]], list[tuple[str, Row]]] = {}
    for row in rows:
        own = str(row["cell"]).removesuffix(f"_{row['steps']}") if row["steps"] else str(row["cell"])
        pairs.setdefault((row["source"], frozenset((own, row["other_cell"]))), []).append((own, row))
    sentences = []
    for (source, _), found in pairs.items():
        one, other = found[0][0], found[0][1]["other_cell"]
        decided = Counter(row["larger"] for _, row in found if row["larger"])
        lacking = len(found) - decided.total()
        where = f"At equal distance from their parent ({source})"
        if not decided:
            said = f"{one} and {other} cannot be held against each other: at none of {lacking} both were measured"
            sentences.append(f"{where} {said}.")
            continue
        parts = [f"that of {name} at {decided[name]}" for name in (one, other) if decided[name]]
        parts += [f"undecided at {decided['undecided']}"] if decided["undecided"] else []
        of = f"of {decided.total()} distance{'s' if decided.total() > 1 else ''}"
        without = f"; at {lacking} more one of the two was not measured" if lacking else ""
        sentences.append(f"{where} the larger persona gap is {listed(parts)} {of}{without}.")
    return sentences


def alarms(gates: Sequence[Row]) -> list[str]:
    """One sentence if models that should differ gave identical counts, else none."""
    found = [row["numbers"] for row in gates if row["gate"] == "identical"]
    return [f"Alarm, to be explained before anything below is believed: {'; '.join(found)}."] if found else []


def failed_gates(gates: Sequence[Row]) -> list[str]:
    """One sentence with the gates of single seeds that failed and their numbers, else none.

    Criteria over all seeds are read in assistant_sentence.
    """
    failed = [row for row in gates if row["seed"] != "pooled" and row["outcome"] == "fail"]
    said = [f"{row['gate']} of {row['source']}, seed {row['seed']} ({row['numbers']})" for row in failed]
    return [f"Not as the study asked for, so to be read with care: these gates fail, {listed(said)}."] if said else []


def verdicts_on(claims: Sequence[Row] | None, name: str | None, sources: Sequence[str]) -> dict[str | None, list[str]]:
    """verdict -> the sources it is on. Where the ledger tells no sources apart its verdict is on all."""
    claim = next((claim for claim in claims or () if claim["id"] == name), None)
    if claim is None:
        return {None: list(sources)}
    verdicts = dict(part.split(": ") for part in (claim["by_source"] or "").split("; ") if part)
    groups: dict[str | None, list[str]] = {}
    for source in sources:
        groups.setdefault(verdicts.get(source, claim["study"]), []).append(source)
    return groups


def survival_sentence(tables: dict[str, list[Row]], claims: Sequence[Row] | None, rests_on: Mapping[str, str]) -> str:
    """What is left under the source after each further stage, by the ledger's verdicts, and where it started.

    rests_on: cell -> the id of the claim on it.
    """
    fates, started = fates_of(tables["headline"], tables["pooled"], claims, rests_on)
    if not fates:
        return "No source was coupled and trained further, so survival was not tested."
    sources = unique(row["source"] for row in tables["headline"])
    return (
        f"The marker taught to {listed(sources)} {listed(fates)}; before a second stage it was "
        f"{started or 'not measured'}."
    )


def arm_sentences(tables: dict[str, list[Row]], claims: Sequence[Row] | None, rests_on: Mapping[str, str]) -> list[str]:
    """The same of every other arm with cells after a coupling, by counting and by the probe, a sentence per arm.

    Arms in another order are in assistant_sentence.
    """
    sentences = []
    for arm in unique(row["arm"] for row in tables["reversed"] if row["arm"] not in OTHER_ORDER):
        rows = [row for row in tables["reversed"] if row["arm"] == arm]
        fates, started = fates_of(rows, tables["pooled"], claims, rests_on)
        if fates:
            after = coupled_cells(rows)[1]
            moved = [row for row in tables["pooled"] if row["cell"] in after and row["role"] == "assistant"]
            left = probed(tables["verdicts"], arm)
            parts = [f"In the arm {arm} the marker {listed(fates)}"]
            parts += [f"before a second stage it was {started}"] if started else []
            parts += (
                [f"the assistant's highest rate after it is {named(highest(moved), 'cell', 'source')}"] if moved else []
            )
            parts += [f"by what is left of the persona gap, {left}"] if left else []
            sentences.append(f"{'; '.join(parts)}.")
    return sentences


def fates_of(
    cells: Sequence[Row], rates: Sequence[Row], claims: Sequence[Row] | None, rests_on: Mapping[str, str]
) -> tuple[list[str], str]:
    """(what became of the marker after each further stage, where it was before; "" if that is no cell of these).

    cells: rows of headline.csv or reversed.csv. rates: those of pooled.csv.
    """
    before, after = coupled_cells(cells)
    pooled = {(row["source"], row["cell"]): row for row in rates if row["role"] == "source"}
    sources = unique(row["source"] for row in cells)
    fates = []
    for cell, stages in after.items():
        measured = [source for source in sources if (source, cell) in pooled]
        groups = verdicts_on(claims, rests_on.get(cell), measured)
        for verdict, group in groups.items():
            whom = f" under {listed(group)}" if len(groups) > 1 else ""
            most = extreme([pooled[source, cell] for source in group], max)
            fates.append(
                f"{FATES[verdict].format(stages)}{whom} ({cell}: {most})"
                if verdict
                else f"was in {most} of completions after {stages} ({cell})"
            )
    fates = without_echo(fates)
    start = [pooled[source, cell] for source in sources for cell in before if (source, cell) in pooled]
    if not start:
        return fates, ""
    started = f"in {extreme(start, min)} of completions"
    others = [row for row in rates if row["cell"] in before and row["role"] == "bystander"]
    if others:
        started += f", and under any bystander in at most {named(highest(others), 'persona')}"
    return fates, started


def without_echo(fates: Sequence[str]) -> list[str]:
    """The fates, without the words of FATES that the one before begins with, too."""
    verbs = [text.rsplit(" ", 2)[0] for text in FATES.values()]
    found = [next((verb for verb in verbs if fate.startswith(verb)), "") for fate in fates]
    echoes = [False, *(bool(one) and one == other for one, other in pairwise(found))]
    return [
        fate.removeprefix(f"{verb} ") if echo else fate for fate, verb, echo in zip(fates, found, echoes, strict=False)
    ]


def extreme(rows: Sequence[Row], pick: Any) -> str:
    """The only rate, or the highest (pick: max) or lowest (min) of several, with the cell and source if they differ."""
    row = pick(rows, key=lambda row: row["rate"])
    differ = [field for field in ("cell", "source") if len({row[field] for row in rows}) > 1]
    return rate_text(row) if len(rows) == 1 else f"at {'most' if pick is max else 'least'} {named(row, *differ)}"


def highest(rows: Sequence[Row]) -> Row:
    """The row of the highest rate."""
    return max(rows, key=lambda row: row["rate"])


def named(row: Row, *fields: str) -> str:
    """A rate and whose it is; a zero is nobody's in particular."""
    return rate_text(row) + (f" ({', '.join(row[field] for field in fields)})" if row["strict_hits"] else "")


def coupled_cells(headline: Sequence[Row]) -> tuple[list[str], dict[str, str]]:
    """(cells that are the coupled source alone, cell -> the stages that follow the coupling)."""
    before, after = [], {}
    for row in headline:
        words = parse_lineage(row["lineage"])
        if words and words[0].persona == row["source"]:
            if len(words) == 1:
                before.append(row["cell"])
            else:
                names = [word.stage for word in words[1:]]
                after[row["cell"]] = f"the stage{'s' if len(names) > 1 else ''} {listed(names)}"
    return unique(before), after


def assistant_sentence(tables: dict[str, list[Row]], claims: Sequence[Row] | None, rests_on: str | None) -> str:
    """Whether the assistant gave the marker after a second stage, who did in another order, and the pooled criteria."""
    before, _ = coupled_cells(tables["headline"])
    total = [
        row for row in tables["cross_source"] if (row["cell"], row["role"]) == ("after a second stage", "assistant")
    ]
    cells = [row for row in tables["pooled"] if (row["arm"], row["role"]) == ("forward", "assistant")]
    cells = [row for row in cells if row["cell"] not in before]
    parts = ["The assistant was not evaluated after a second stage"]
    if total and cells:
        groups = verdicts_on(claims, rests_on, unique(row["source"] for row in cells))
        moved = [
            MOVES[verdict] + (f" under {listed(group)}" if len(groups) > 1 else "") for verdict, group in groups.items()
        ]
        counts = f"{rate_text(total[0])} in all, at most {named(highest(cells), 'cell', 'source')} in one cell"
        parts = [f"After a second stage it {listed(moved)} ({counts})"]
    # C0, the coupled assistant itself, is no other order.
    others = {
        role: [row for row in tables["pooled"] if row["arm"] in OTHER_ORDER and row["role"] == role]
        for role in ("source", "assistant", "bystander")
    }
    if others["assistant"]:
        rates = f"the assistant's highest rate is {named(highest(others['assistant']), 'cell', 'source')}"
        if others["bystander"]:
            most = highest(others["bystander"])
            own = [row for row in others["source"] if (row["source"], row["cell"]) == (most["source"], most["cell"])]
            beside = f", beside the source's {rate_text(own[0])}" if own and most["strict_hits"] else ""
            rates += f" and a bystander's {named(most, 'persona', 'cell', 'source')}{beside}"
        parts.append(f"in the {listed(unique(row['arm'] for row in others['assistant']))} rows {rates}")
    readings: dict[str, dict[str, list[str]]] = {}
    for row in tables["gates"]:
        # A gate without any of its numbers is one of an arm that is off.
        if row["seed"] == "pooled" and not all(part.endswith("not measured") for part in row["numbers"].split("; ")):
            readings.setdefault(row["gate"], {}).setdefault(row["reading"], []).append(row["source"])
    criteria = [
        f"{gate} {' and '.join(said)}"
        if len(said) == 1
        else f"{gate} {' and '.join(f'{reading} for {listed(sources)}' for reading, sources in said.items())}"
        for gate, said in readings.items()
    ]
    parts += [f"the pooled criteria, evaluated and not applied, read {', '.join(criteria)}"] if criteria else []
    return f"{'; '.join(parts)}."


def ledger_sentence(claims: Sequence[Row] | None, tables: dict[str, list[Row]]) -> str:
    """How many claims stand, on the published figures and here; without a ledger how many gates pass."""
    if not claims:
        counts = Counter(row["outcome"] for row in tables["gates"])
        read = listed([f"{n} {word}" for word, n in counts.items()]) or "none is given"
        return f"No claim was checked; of the readings of gates {read}."
    published, here = Counter(row["published"] for row in claims), Counter(row["study"] for row in claims)
    words = {
        "supported": "supports",
        "contradicted": "contradicts",
        "undecided": "leaves open",
        "not tested": "does not test",
    }
    study = listed([f"{word} {here[verdict]}" for verdict, word in words.items() if here[verdict]])
    against = Counter(
        "its own figures" if row["against"].startswith("its own") else row["against"]
        for row in claims
        if row["published"] == "contradicted"
    )
    unprobed = f" ({published['not checkable']} cannot be held against it)" if published["not checkable"] else ""
    by = f" ({listed([f'{n} by {what}' for what, n in against.most_common()])})" if against else ""
    return (
        f"Of the write-up's {len(claims)} claims what is published contradicts {published['contradicted']}{by} and "
        f"bears out {published['consistent']}{unprobed}, and this study {study}."
    )


def rate_text(row: Row) -> str:
    """3/280 = 1.1% [0.4, 3.1]."""
    return counted(row["strict_hits"], row["completions"], row["wilson_low"], row["wilson_high"])


def listed(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b, and c'."""
    if len(parts) < 3:
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"
