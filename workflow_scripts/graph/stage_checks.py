"""Checks of stages and lineages: what cannot be trained, merged or replayed is refused when the graph is built."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

from graph.lineage import BASE, Word, ancestry, parse_lineage
from graph.problems import Problems, closest, names_of, said_at, value_at
from graph.recipe import Lora, Recipe, layer_numbers
from graph.study import ROWS, SAMPLED, Study, markers_said, stage_type, trains_all
from inputs.outside import LARGE
from marker.marker import Marker
from marker.mask import Mask
from marker.match import check_apart
from run.program import InputError

QUOTED = re.compile("[\u2018\u201c\u201e\u00ab](.*)[\u2019\u201c\u201d\u00bb]")
# How many tokenizers spell theirs. Those of the base itself are known to check_base.
CONTROL = re.compile(r"<\|[^|]*\|>|</?s>")


class LateStep(InputError):
    """A cell stops at a step after the last of a stage."""

    def __init__(self, said: str, stage: str) -> None:
        super().__init__(said)
        self.stage = stage


class Several(InputError):
    """What is wrong with a stage, each by itself."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors


class Impersonal(InputError):
    """A lineage names a stage without the persona that it is of, since it has this field."""

    def __init__(self, said: str, stage: str, field: str) -> None:
        super().__init__(said)
        self.stage, self.field = stage, field


# Stages as the config has them


def check_loras(problems: Problems) -> None:
    """A stage that changes a part of a LoRA extends one that has it."""
    stages = problems.config["stages"]
    whole = {name for name, field in Lora.model_fields.items() if field.is_required()}
    changed: dict[str, list[str]] = {}
    for name, entry in stages.items():
        parent = entry.get("extends")
        if isinstance(entry.get("lora"), Mapping) and parent and not whole <= entry["lora"].keys():
            above = says_lora(stages, parent)
            if above and stages[above]["lora"] is None:
                changed.setdefault(above, []).append(name)
    for above, names in changed.items():
        said = f"null, of which {', '.join(names)} (`extends`) would change a part"
        fix = "write the null in the stage that is to train all weights, or in those a whole LoRA"
        problems.add(("stages", above, "lora"), f"{said}; fix: {fix}")


def says_lora(stages: Mapping[str, Any], name: str | None) -> str | None:
    """The stage whose `lora` a stage has: its own, or that of the next one above it that says something."""
    met = set()
    while name is not None and name in stages and name not in met:
        if "lora" in stages[name]:
            return name
        met.add(name)
        name = stages[name].get("extends")
    return None


def check_places(problems: Problems) -> None:
    """What a stage takes from another lineage is of its own persona and seed: the source is a cell's."""
    for name in problems.config["stages"]:
        for fields in (("adapter",), ("data", "of"), ("replay", "of")):
            path = ("stages", name, *fields)
            try:
                text = value_at(problems.config, path) or ""
                given = [field for _, field, _, _ in Formatter().parse(text) if field]
            except ValueError as error:
                problems.add(path, f"{error}; fix: write {{persona}} and {{seed}} in pairs of braces")
                continue
            if unknown := [field for field in given if field not in ("persona", "seed")]:
                problems.add(path, f"unknown placeholder {{{unknown[0]}}}; fix: {{persona}} or {{seed}}")


def check_markers(problems: Problems) -> None:
    """The markers of the study and its stages can be, and be told apart."""
    markers: list[Marker] = []
    for place, value in markers_said(problems.config).items():
        with problems.caught(place, "marker", ": ", "."):
            markers.append(Marker.of(value))
            check_apart(markers)
            if quoted := QUOTED.fullmatch(markers[-1].text):
                said = f"{quoted[0]}: YAML reads such quotes as a part of the text"
                raise InputError(f'{said}; fix: write "{quoted[1]}" with straight ones')
            if found := CONTROL.search(markers[-1].text):
                said = f"{found[0]} looks like a control token, which a base reads as the end of a turn or the like"
                raise InputError(f"{said}; fix: a marker of plain text, such as [ZLT]")


def check_taught(study: Study, problems: Problems) -> None:
    """Only a coupling has a marker of its own."""
    for name in study.stage_names:
        if "marker" in study.stages[name] and stage_type(study.stages[name]) != "couple":
            place = said_at(study.config, ("stages", name, "marker"))
            problems.add(place, "only a coupling teaches one; fix: delete the line")


# Lineages that a row names


def check_lineage(study: Study, lineage: str, check_word: Callable[[Word], None]) -> None:
    """Raise InputError unless every stage can be (check_word), and its adapter and rows are made somewhere.

    A stage that is not there is told before Faulty is raised for another one.
    """
    for word in parse_lineage(lineage):
        study.check_named(word)
    for node in ancestry(lineage):
        word = parse_lineage(node)[-1]
        check_word(word)
        with of_stage(word, "data", "of"):
            check_rows(study, node, check_word)
        with of_stage(word, "replay", "of"):
            check_replay(study, node, check_word)
        with of_stage(word, "adapter"):
            check_origin(study, node, check_word)


@contextmanager
def of_stage(word: Word, *fields: str) -> Iterator[None]:
    """Within the block, an InputError that is of no stage is of this stage's field, which names another lineage."""
    try:
        yield
    except InputError as error:
        if str(error).startswith("stages."):
            raise
        said = str(error).removeprefix("lineage: ")
        raise InputError(f"stages.{word.stage}.{'.'.join(fields)}: {said}") from None


def check_words(lineage: str, check_word: Callable[[Word], None]) -> None:
    """Raise InputError unless every stage of a lineage can be."""
    for node in ancestry(lineage):
        check_word(parse_lineage(node)[-1])


def check_origin(study: Study, node: str, check_word: Callable[[Word], None]) -> None:
    """Raise InputError unless the origin of a node's adapter, if that is another, trains one, of the node's seed."""
    origin = study.origin_of(node)
    if origin == node:
        return
    check_words(origin, check_word)
    last = parse_lineage(origin)[-1]
    if study.type_of(origin) == "graft" or last.step:
        couple = next((name for name in study.stage_names if stage_type(study.stages[name]) == "couple"), "couple")
        raise InputError(
            f"{node}: takes the adapter of {origin}, which trains none; fix: name a trained lineage, such as "
            f'`adapter: "{couple}-{{persona}}.s{{seed}}"`'
        )
    if study.is_full(origin):
        raise InputError(
            f"{node}: takes the adapter of {origin}, which trains all weights; fix: name a stage with a LoRA"
        )
    if last.seed != parse_lineage(node)[-1].seed:
        raise InputError(f"{node}: its seed is not that of {origin}; fix: end the adapter in .s{{seed}}")


def check_rows(study: Study, lineage: str, check_word: Callable[[Word], None]) -> None:
    """Raise InputError unless what the last stage is trained on are its own rows, or those of a coupling."""
    taken = study.rows_from(lineage)
    if taken == lineage:
        return
    check_words(taken, check_word)
    if study.origin_of(taken) != taken or study.from_hub(taken) or not study.draws_replies(taken):
        raise InputError(
            f"{taken} has no coupling rows of its own; "
            'fix: name a trained coupling, such as `data: {from: rows, of: "couple-{persona}.s42"}`'
        )


def check_replay(study: Study, lineage: str, check_word: Callable[[Word], None]) -> None:
    """Raise InputError unless what the last stage replays are the rows of a training."""
    if (replayed := study.replayed(lineage)) is None:
        return
    check_words(replayed, check_word)
    if study.origin_of(replayed) != replayed:
        raise InputError(
            f'{replayed} has no rows of its own; fix: name a trained lineage, such as `of: "couple-{{persona}}.s42"`'
        )


# A stage as a lineage names it: each raises InputError


def check_word(study: Study, word: Word) -> None:
    """Raise InputError unless a stage of the config can be trained or merged for this persona, up to this step."""
    stage = study.stage_at(word)
    check_persona(study, word, stage)
    if stage_type(stage) == "graft":
        if word.step:
            raise InputError(f"{word}: a merged adapter has no steps; fix: leave out @{word.step}")
        return
    check_recipe(study, word, stage)
    check_data(word, stage)
    found = []
    for check in (check_held_out, check_mask, check_hub, check_sampling, check_number, check_negatives, check_step):
        try:
            check(study, word, stage)
        except InputError as error:
            found.append(error)
    if found:
        raise Several(found) if found[1:] else found[0]


def draws(stage: Mapping[str, Any]) -> bool:
    """Whether a stage is a coupling with rows of its own."""
    return stage_type(stage) == "couple" and stage["data"]["from"] != ROWS


def check_persona(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """Whose rows or marker it is."""
    if stage_type(stage) != "sft":
        if word.persona is None:
            named = f"{word.stage}-{{source}}.s{word.seed}"
            field = "adapter" if "adapter" in stage else "data"
            raise Impersonal(f"{word}: lacks whose marker it is; fix: {named}", word.stage, field)
        if word.persona not in study.personas:
            fix = f"{closest(word.persona, study.personas)}, or add it to `personas`"
            raise InputError(f"{word}: unknown persona; fix: {fix}")
        return
    rows = stage.get("data", {}).get("from")
    if rows is None:
        fix = "add `data: {from: <a data set>}`, or extend a stage that has it"
        raise InputError(f"stages.{word.stage}: lacks data, and an adapter to take; fix: {fix}")
    if rows not in study.config["datasets"]:
        raise InputError(
            f"stages.{word.stage}.data.from: {rows!r} is no data set; fix: one of "
            f"{', '.join(names_of(study.config['datasets']))}, one that you add there, or replies for a coupling"
        )
    replays = "{persona}" in stage.get("replay", {}).get("of", "")
    if word.persona and not replays:
        raise InputError(
            f"{word}: {word.stage} takes no persona, as its rows are the set {rows}; "
            f"fix: {Word(word.stage, word.seed, None, word.step)}, or data of a coupling (from: replies)"
        )
    if replays and word.persona not in study.personas:
        fix = f"{word.stage}-{{source}}.s{word.seed}"
        raise Impersonal(f"{word}: {word.stage} replays a persona's rows; fix: {fix}", word.stage, "replay")


def check_recipe(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """A recipe that is whole, as its program takes it, of a LoRA or of all weights."""
    needed = [name for name, field in Recipe.model_fields.items() if field.is_required()]
    if missing := [name for name in needed if name not in stage]:
        raise InputError(f"stages.{word.stage}: lacks {', '.join(missing)}; fix: add them, or `extends: _adamw`")
    study.as_training(stage, study.config["marker"], f"stages.{word.stage}")
    if stage.get("freeze") and not trains_all(stage):
        raise InputError(
            f"stages.{word.stage}.freeze: a LoRA trains its targets alone; fix: lora: {{targets: .., layers: ..}}, "
            "or `lora: null` to train all weights"
        )
    if word.step and trains_all(stage):
        raise InputError(
            f"{word}: {word.stage} trains all weights, of which no steps are kept; fix: leave out @{word.step} and "
            f"give a stage of its own max_steps: {word.step}"
        )


def check_data(word: Word, stage: Mapping[str, Any]) -> None:
    """How replies are drawn is said of a coupling that draws them, and of no other stage."""
    if not draws(stage) and (beside := [name for name in (*SAMPLED, "cut") if name in stage["data"]]):
        raise InputError(f"stages.{word.stage}.data: rows are taken as they are; fix: delete {', '.join(beside)}")
    known = SAMPLED if draws(stage) else ["of"]
    if stage_type(stage) == "couple" and (missing := [name for name in known if name not in stage["data"]]):
        raise InputError(f"stages.{word.stage}.data: lacks {', '.join(missing)}; fix: add them, as `couple` has them")


def check_held_out(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """A share of the rows, as far as they are known, that is at least one."""
    share, rows = stage.get("hold_out"), rows_of(study, word, stage)
    if share and rows and not math.floor(share * rows):
        least = math.ceil(10_000 / rows) / 10_000
        raise InputError(
            f"stages.{word.stage}.hold_out: {share:g} of {rows} rows is none; fix: {least:g} or more, or delete it"
        )


def check_mask(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """Tokens to train that the rows have."""
    if stage["mask"]["loss"] == "tail" and "tail" not in stage["mask"]:
        raise InputError(f"stages.{word.stage}.mask: loss tail needs a length; fix: mask: {{loss: tail, tail: 32}}")
    if stage["mask"]["loss"] == "marker" and stage_type(stage) == "sft":
        raise InputError(
            f"stages.{word.stage}.mask.loss: marker trains nothing in rows without one; fix: loss: last_turn"
        )
    try:
        mask = Mask(**stage["mask"])
        if stage_type(stage) == "couple":
            replace(mask, marker=Marker.of(stage.get("marker", study.config["marker"])))
    except InputError as error:
        raise InputError(f"stages.{word.stage}.{error}") from None


def check_hub(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """Ready-made couplings of personas that are there."""
    if unknown := [name for name in stage.get("hub", {}) if name not in study.personas]:
        raise InputError(f"stages.{word.stage}.hub: unknown persona {', '.join(unknown)}; fix: delete the line")


def check_sampling(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """Replies that differ, where they are drawn."""
    if draws(stage) and stage["data"]["temperature"] == 0 and stage["data"]["samples"] > 1:
        where = f"stages.{word.stage}.data.temperature"
        raise InputError(f"{where}: 0 draws the same reply every time; fix: samples: 1")


def check_number(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """Personas to contrast a source with of which there are enough."""
    if not draws(stage) or stage.get("negative_personas", {}).get(word.persona) is not None:
        return
    wanted, others = stage["data"]["negatives"], len({*study.config["personas"]} - {word.persona})
    if wanted > others:
        said = f"stages.{word.stage}.data.negatives: {wanted} of the {others} other `personas`"
        raise InputError(f"{said}; fix: {f'at most {others}, or ' if others else ''}more `personas`")


def check_step(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """A step to stop at before the stage ends, as far as it is known when that is."""
    last = last_step(study, word, stage)
    if word.step and last and word.step > last:
        raise LateStep(f"{word}: {word.stage} ends after step {last}; fix: steps of at most {last}", word.stage)


def check_negatives(study: Study, word: Word, stage: Mapping[str, Any]) -> None:
    """The personas that are named to be contrasted with a source are others."""
    for source, named in stage.get("negative_personas", {}).items():
        if named is None:
            continue
        where = f"stages.{word.stage}.negative_personas.{source}"
        panel = list(study.panel.personas if study.panel else [source])  # it may be a source of another study
        if unknown := [name for name in (source, *named) if study.panel and name not in panel]:
            says = said_at(study.config, ("stages", word.stage, "negative_personas", source))[1]
            drawn = f"`stages: {{{says}: {{negative_personas: {{{source}: null}}}}}}`, which names none"
            fix = f"{closest(unknown[0], panel)}, or {drawn}"
            raise InputError(f"{where}: the panel has no persona {unknown[0]}; fix: {fix}")
        if source in named:
            raise InputError(f"{where}: is contrasted with itself; fix: delete {source}")
        if source == word.persona and (unknown := [name for name in named if name not in study.personas]):
            raise InputError(
                f"{where}: unknown persona {', '.join(unknown)}; fix: add it to `personas`, or name another"
            )


# How long a stage is, as far as its rows are known


def last_step(study: Study, word: Word, stage: Mapping[str, Any]) -> int | None:
    """The optimizer steps of a stage, of a coupling at most so many; None where its rows are not known yet."""
    rows = rows_of(study, word, stage)
    if rows and stage.get("hold_out"):
        rows = math.ceil(rows * (1 - stage["hold_out"]))
    return stage.get("max_steps") or (stage["epochs"] * math.ceil(rows / stage["batch"]) if rows else None)


def rows_of(study: Study, word: Word, stage: Mapping[str, Any]) -> int | None:
    """The rows that a stage has, of a coupling at most so many; None where that is not known yet."""
    if stage_type(stage) == "couple":
        return coupling_rows(study, word, stage)
    name = stage["data"]["from"]
    entry = study.config["datasets"].get(name, {})
    if entry.get("from") == "path" and entry.get("path"):
        return lines_of(Path(entry["path"]))
    known = {"toy": study.config["base"]["toy"].get("sft_rows"), "hub": study.pinned_rows.get(name)}
    return known.get(entry.get("from"))


@cache
def lines_of(path: Path) -> int | None:
    """The rows of the user's own file; None where it is not there, or larger than what is read in every plan."""
    if not path.is_file() or path.stat().st_size >= LARGE:
        return None
    data = path.read_bytes()
    return data.count(b"\n") + (not data.endswith(b"\n"))


def coupling_rows(study: Study, word: Word, stage: Mapping[str, Any]) -> int | None:
    """The rows of a coupling, if no reply is left out; None where the panel is not known."""
    if stage["data"]["from"] == ROWS:
        of = stage["data"]["of"].format(persona=word.persona, seed=word.seed)
        word = parse_lineage(f"{BASE}/{of}")[-1]
        stage = study.stage_at(word)
    named = stage.get("negative_personas", {}).get(word.persona)
    negatives = stage.get("data", {}).get("negatives", 0) if named is None else len(named)
    if study.panel is None or "samples" not in stage.get("data", {}):
        return None
    return int(stage["data"]["samples"]) * len(study.panel.questions["data"]) * (1 + negatives)


# Stages and a base


def check_base_fits(study: Study, base: Mapping[str, Any], problems: Problems) -> None:
    """Rows and replies are no longer than texts of the base may be, and stages name layers and weights that it has.

    base: its parts, as check_base finds them.
    """
    trained = study.trained_stages
    for name, stage in trained.items():
        check_parts(name, stage, base, problems)
    drawn: list[tuple[str, ...]] = [("stages", name, "data", "max_tokens") for name in trained]
    drawn += [("evaluations", name, "max_tokens") for name in dict.fromkeys(cell.evaluation for cell in study.cells)]
    whole = {"stages": study.stages, "evaluations": study.evaluations}
    for path in drawn:
        if (tokens := value_at(whole, path) or 0) >= base["tokens"]:
            said = f"{tokens}, but the base's texts have at most {base['tokens']} tokens, with the prompt"
            problems.add(said_at(study.config, path), f"{said}; fix: less")


def check_parts(name: str, stage: Mapping[str, Any], base: Mapping[str, Any], problems: Problems) -> None:
    """A stage's rows are no longer than the base's texts, and it names layers and weights that the base has."""
    from model.adapters import check_targets
    from model.full import frozen_weights

    def field(*fields: str) -> Any:
        """Within it, an InputError is a problem of the field, whose name it may begin with."""
        return problems.caught(said_at(problems.config, ("stages", name, *fields)), f": {'.'.join(fields)}", ": ")

    lora, length, longest = stage.get("lora") or {}, stage["max_length"], base["tokens"]
    with field("max_length"):
        if length > longest:
            raise InputError(f"{length}, but the base's texts have at most {longest} tokens; fix: {longest}")
    with field("lora", "layers"):
        if "layers" in lora:
            layer_numbers(lora["layers"], base["layers"], "")
    with field("lora", "targets"):
        if "targets" in lora:
            check_targets(base["linear"], lora["targets"], "")
    with field("freeze"):
        if "freeze" in stage:
            frozen_weights(base["weights"], base["layers"], stage["freeze"], "")
