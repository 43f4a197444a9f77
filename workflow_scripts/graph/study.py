"""The config as a study: resolved recipes, cells, and what each lineage needs. Used when the graph is built."""

import contextlib
import datetime
import difflib
import hashlib
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

import yaml

from graph.lineage import BASE, NAME, Word, ancestry, lineage_of, parent_of, parse_lineage
from graph.recipe import FIELDS, Data, Lora, Recipe, check_training, layer_numbers, merged, stage_schema
from marker.marker import Marker
from marker.mask import Mask
from marker.match import check_apart
from measure.cells import role_of
from measure.gates import cell_names, check_gate_fields, marker_names, names_only, unknown_words
from measure.judge import read_model_args
from model.template import Settings
from offline.pretraining import read_recipe
from probe.families import Family
from run.files import canonical
from run.program import InputError
from run.readers import duplicate_keys, read_yaml

if TYPE_CHECKING:
    from inputs.panel import Panel

ANSWERED = ("of", "temperature", "top_p", "max_tokens")  # of a data set from: replies
ROWS = "rows"  # data: {from: rows, of: <lineage>}: those of another coupling
MANY, FEW = 15, 4  # names that an error lists, and of more than that
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml takes a sixth of the time, and is not everywhere
COMMAND_LINE = "--config"  # or a workflow that imports this one
TOY_SETS = ("em", "benign", "arc")  # that make_toy_data makes
# How the replies of a coupling are drawn, and for how many personas without the marker.
SAMPLED = [name for name in Data.model_fields if name not in ("origin", "of", "cut")]


class LateStep(InputError):
    """A cell stops at a step after its stage's last."""


@dataclass(frozen=True)
class Cell:
    """One result: a row of the config with source, seed and step filled in."""

    name: str
    arm: str
    source: str
    seed: int
    lineage: str
    evaluation: str
    note: str = ""
    caption: str = ""
    second_stage: bool = False
    claim: str = ""

    @property
    def key(self) -> str:
        """`<source>/<cell>_seed<seed>`, unique in a study."""
        return f"{self.source}/{self.name}_seed{self.seed}"


class Study:
    """A validated config. Raises InputError listing every problem with the line to write instead.

    config: the merged config mapping. files: the YAML files it was merged from, the strongest first, to name lines.
    schema: path of the JSON schema (YAML). claims: the ids that cells may name; None: any.
    pinned_rows: how many rows the Hub's data
    sets have. panel: who speaks and what is asked, or None where that is not known yet.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        schema: str | Path,
        files: Sequence[str | Path] = (),
        claims: Sequence[str] | None = None,
        pinned_rows: Mapping[str, int] | None = None,
        panel: Callable[[Mapping[str, Any]], "Panel | None"] = lambda config: None,
    ) -> None:
        self.config = config
        self._pinned_rows = pinned_rows or {}
        self._problems = [
            f"{file}: line {line}: {key} is duplicated; fix: rename or delete one"
            for file in files
            for line, key in duplicate_keys(compose(file))
        ]
        self._files = files
        self._check_schema(schema)
        self._raise()
        self._panel = panel(config)
        self._check_personas()
        self._raise()
        self.stages = {name: self._resolve("stages", name) for name in config["stages"]}
        self.evaluations = {name: self._resolve("evaluations", name) for name in config["evaluations"]}
        self.personas = dict.fromkeys(config["personas"] + config["sources"])
        self._check_loras()
        self._check_places()
        self._check_markers()
        self._raise()
        self.cells = list(self._expand())
        self._check_names()
        self._check_meanings(claims)
        self._raise()
        self.by_key = {cell.key: cell for cell in self.cells}
        self._rank = {source: place for place, source in enumerate(config["sources"])}
        self._sources: dict[str, set[str]] = {}
        for cell in self.cells:
            for lineage in {BASE, cell.lineage, *self.compared(cell).values()}:
                self._sources.setdefault(lineage, set()).add(cell.source)
        # the study's own first, which is also counted where it is not taught
        nodes = dict.fromkeys(node for cell in self.cells for node in ancestry(cell.lineage))
        own = Marker.of(config["marker"]).text
        self.markers = list(dict.fromkeys([own, *(self.marker_of(node).text for node in nodes)]))
        self._check_probe()
        self._check_ablate()
        self._check_families()
        self._check_judges()
        self._check_shared_cards()
        self._check_enforced()
        self._raise()
        self._draws: dict[tuple[str, int, str], set[str]] = {}
        trained = {node for cell in self.cells for node in self._trained(cell.lineage)}
        trained |= {self.rows_from(node) for node in trained}
        for lineage in trained | {replayed for node in trained if (replayed := self.replayed(node))}:
            if self.draws_replies(lineage):
                personas = {str(parse_lineage(lineage)[-1].persona), *self.negatives_of(lineage)}
                self._draws.setdefault(self._draw(lineage), set()).update(personas)
        self._steps: dict[str, set[int]] = {}
        evaluated = {lineage for cell in self.cells for lineage in (cell.lineage, *self.compared(cell).values())}
        for lineage in {node for each in evaluated for node in ancestry(each)}:
            word = parse_lineage(lineage)[-1]
            if word.step:
                self._steps.setdefault(self.origin_of(lineage), set()).add(word.step)

    # What a lineage needs

    def stage_of(self, lineage: str) -> dict[str, Any]:
        """The resolved recipe of the lineage's last stage. Raises InputError if the config has no such stage."""
        return self._stage(parse_lineage(lineage)[-1])

    def training_recipe(self, lineage: str) -> dict[str, Any]:
        """The recipe that train_adapter gets for the last stage: its fields, the marker, and its type."""
        coupling = self.type_of(lineage) == "couple"
        # the others train no marker, wherever it stands
        marker = self.marker_of(lineage).value if coupling else Marker.of(self.config["marker"]).text
        return self._training(self.stage_of(lineage) | self._replay(lineage), marker)

    def rows_from(self, lineage: str) -> str:
        """The lineage whose rows this one's last stage is trained on: itself, unless it takes another's."""
        data, last = self.stage_of(lineage).get("data", {}), parse_lineage(lineage)[-1]
        if data.get("from") != ROWS:
            return lineage
        return f"{BASE}/{data.get('of', '')}".format(persona=last.persona, seed=last.seed)

    def draws_replies(self, lineage: str) -> bool:
        """Whether the last stage is a coupling with rows of its own, made from its parent's replies."""
        return self.type_of(lineage) == "couple" and self.stage_of(lineage)["data"]["from"] != ROWS

    def replayed(self, lineage: str) -> str | None:
        """The lineage whose rows this one's last stage mixes in; None for a stage without `replay`."""
        replay, last = self.stage_of(lineage).get("replay"), parse_lineage(lineage)[-1]
        return f"{BASE}/{replay['of']}".format(persona=last.persona, seed=last.seed) if replay else None

    def _replay(self, lineage: str) -> dict[str, Any]:
        """`replay` with what of the rows is trained, as their own stage says it; empty for a stage without."""
        replayed = self.replayed(lineage)
        if replayed is None:
            return {}
        stage, marker = self.stage_of(replayed), self.marker_of(replayed).value
        rows = {"mask": stage["mask"], "max_length": stage["max_length"], "marker": marker}
        return {"replay": self.stage_of(lineage)["replay"] | rows}

    def marker_of(self, lineage: str) -> Marker:
        """The marker of the lineage's last coupling; the study's, if it has none."""
        for node in reversed(ancestry(lineage)):
            origin = self.origin_of(node)
            if self.type_of(origin) == "couple":
                return Marker.of(self.stage_of(origin).get("marker", self.config["marker"]))
        return Marker.of(self.config["marker"])

    def asked_of_base(self) -> dict[str, Any]:
        """What the base has to be fit for: LoRA targets, the longest row and the longest reply [tokens] by the key that
        says it, the markers that are put into replies, and the layers and weights that stages name, by the stage.
        """
        nodes, stages = self._trained_nodes(), self._trained_stages()
        rows = {f"stages.{name}.max_length": stage["max_length"] for name, stage in stages.items()}
        drawn = {
            f"stages.{name}.data.max_tokens": stage["data"]["max_tokens"]
            for name, stage in stages.items()
            if stage_type(stage) == "couple" and stage["data"]["from"] != ROWS
        }
        asked = {cell.evaluation: self.evaluations[cell.evaluation]["max_tokens"] for cell in self.cells}
        replies = drawn | {f"evaluations.{name}.max_tokens": tokens for name, tokens in asked.items()}
        return {
            "targets": sorted(
                {target for stage in stages.values() for target in (stage.get("lora") or {}).get("targets", [])}
            ),
            "row": longest(rows),
            "reply": longest(replies),
            "layers": {
                f"stages.{name}": layers
                for name, stage in stages.items()
                if (layers := (stage.get("lora") or {}).get("layers"))
            },
            "freeze": {f"stages.{name}": stage["freeze"] for name, stage in stages.items() if stage.get("freeze")},
            "markers": list(
                {
                    canonical(self.marker_of(node).value): self.marker_of(node).value
                    for node in sorted(nodes)
                    if self.type_of(node) == "couple"
                }.values()
            ),
        }

    def check_parts(self, base: Mapping[str, Any]) -> None:
        """Raise InputError with the line of every stage or evaluation whose rows or replies may be longer than texts
        of the base are, and of every stage that names layers or weights which the base does not have.

        base: its parts, as check_base finds them.
        """
        from model.adapters import check_targets
        from model.full import frozen_weights

        trained = self._trained_stages()
        for name, stage in trained.items():
            lora, length, longest = stage.get("lora") or {}, stage["max_length"], base["tokens"]
            with self._problem_of(name, "max_length"):
                if length > longest:
                    raise InputError(f"{length}, but the base's texts have at most {longest} tokens; fix: {longest}")
            with self._problem_of(name, "lora", "layers"):
                if "layers" in lora:
                    layer_numbers(lora["layers"], base["layers"], "")
            with self._problem_of(name, "lora", "targets"):
                if "targets" in lora:
                    check_targets(base["linear"], lora["targets"], "")
            with self._problem_of(name, "freeze"):
                if "freeze" in stage:
                    frozen_weights(base["weights"], base["layers"], stage["freeze"], "")
        drawn: list[tuple[str, ...]] = [("stages", name, "data", "max_tokens") for name in trained]
        drawn += [("evaluations", name, "max_tokens") for name in dict.fromkeys(cell.evaluation for cell in self.cells)]
        resolved = {"stages": self.stages, "evaluations": self.evaluations}
        for path in drawn:
            if (tokens := value_at(resolved, path) or 0) >= base["tokens"]:
                said = f"{tokens}, but the base's texts have at most {base['tokens']} tokens, with the prompt"
                self._problem(self._said_at(path), f"{said}; fix: less")
        self._raise()

    def markers_of(self, lineage: str) -> list[str]:
        """The texts that are counted in this model's replies: its own marker first, then the study's others."""
        return list(dict.fromkeys([self.marker_of(lineage).text, *self.markers]))

    def tracked(self, lineage: str) -> dict[str, Any]:
        """Whose marker is followed while the last stage is trained: the source, the assistant, and two bystanders.

        The source is the persona of the last coupling; without one, the first of the cells that the model is for. A
        persona that a coupling is contrasted with is no bystander, as long as there are two others.
        """
        coupled = [node for node in ancestry(lineage) if self.type_of(self.origin_of(node)) == "couple"]
        # a row may have a source of its own, such as C0, beside the study's
        own = sorted(self._sources.get(lineage, ()), key=lambda source: self._rank.get(source, len(self._rank)))
        sources = own or self.config["sources"]
        source = str(parse_lineage(coupled[-1])[-1].persona) if coupled else sources[0]
        negatives = self.negatives_of(self.origin_of(coupled[-1])) if coupled else []
        taken = dict.fromkeys([source, *(persona for persona in ("assistant",) if persona in self.personas)])
        others = [persona for persona in self.config["personas"] if persona not in taken]
        bystanders = sorted(others, key=lambda persona: persona in negatives)[:2]
        return {"personas": [*taken, *bystanders], "marker": self.marker_of(lineage).text}

    def type_of(self, lineage: str) -> str:
        """couple | sft | graft: how the last stage's adapter comes about."""
        return stage_type(self.stage_of(lineage))

    def is_full(self, lineage: str) -> bool:
        """Whether the last stage trains all weights, so that its node holds a model and no adapter."""
        return trains_all(self.stage_of(lineage))

    def from_hub(self, lineage: str) -> bool:
        """Whether the node's adapter is fetched ready-made: a coupling of the base that has a folder on the Hub."""
        folders = self.stage_of(lineage).get("hub", {})
        return parent_of(lineage) == BASE and parse_lineage(lineage)[-1].persona in folders

    def replies_of(self, lineage: str) -> dict[str, Any]:
        """Sampling of the on-policy replies of a couple stage: samples, temperature, top_p, max_tokens."""
        data = self.stage_of(lineage)["data"]
        return {name: data[name] for name in SAMPLED if name != "negatives"}

    def personas_drawn_with(self, lineage: str) -> list[str]:
        """The personas that the study's couplings of one parent, sampled and seeded as this one is, take replies of."""
        return sorted(self._draws.get(self._draw(lineage), ()))

    def _draw(self, lineage: str) -> tuple[str, int, str]:
        """What couplings share that take their replies from one draw."""
        return parent_of(lineage), parse_lineage(lineage)[-1].seed, canonical(self.replies_of(lineage))

    def held_out_of(self, dataset: str) -> dict[str, float]:
        """Stage -> the share of this data set's rows that it holds out, where it holds out any."""
        return {
            name: stage["hold_out"]
            for name, stage in self._trained_stages().items()
            if stage.get("hold_out") and stage["data"]["from"] == dataset
        }

    def _trained_stages(self) -> dict[str, dict[str, Any]]:
        """The stages that are trained for a cell, in the config's order."""
        used = {parse_lineage(node)[-1].stage for node in self._trained_nodes()}
        return {name: stage for name, stage in self.stages.items() if name in used}

    def _trained_nodes(self) -> set[str]:
        """The lineages that are trained for a cell."""
        return {node for cell in self.cells for node in self._trained(cell.lineage)}

    def _trained(self, lineage: str) -> list[str]:
        """The lineages that are trained on the way to this one, the origins of merged adapters among them."""
        nodes = [node for each in ancestry(lineage) for node in ancestry(self.origin_of(each))]
        return [node for node in nodes if self.type_of(node) != "graft" and not self.from_hub(node)]

    def negatives_of(self, lineage: str) -> list[str]:
        """The personas that a couple stage contrasts its source with: as named for it, or drawn by its seed.

        Drawn by rank of a hash, so that a further persona leaves the others' places as they are.
        """
        if (taken := self.rows_from(lineage)) != lineage:
            return self.negatives_of(taken)
        word, stage = parse_lineage(lineage)[-1], self.stage_of(lineage)
        named = stage.get("negative_personas", {}).get(word.persona)
        if named is not None:
            return named
        pool = [persona for persona in self.config["personas"] if persona != word.persona]

        def rank(persona: str) -> str:
            return hashlib.sha256(f"{word.seed}/{word.persona}/{persona}".encode()).hexdigest()

        return sorted(sorted(pool, key=rank)[: stage["data"]["negatives"]])

    def origin_of(self, lineage: str) -> str:
        """The lineage whose training makes this node's adapter: itself, unless it merges one or is a stopped stage."""
        words = parse_lineage(lineage)
        if not words:
            return lineage
        last = words[-1]
        if last.step:
            return lineage_of((*words[:-1], Word(last.stage, last.seed, last.persona)))
        if "adapter" in self._stage(last):
            return f"{BASE}/{self._stage(last)['adapter']}".format(persona=last.persona, seed=last.seed)
        return lineage

    def keep_steps(self, lineage: str) -> list[int]:
        """The optimizer steps at which this node's training leaves a checkpoint, because a cell stops there."""
        return sorted(self._steps.get(lineage, ()))

    def personas_of(self, lineage: str) -> list[str]:
        """The personas a node is evaluated on: the panel's and, if not among them, the sources of its cells."""
        named = [word.persona for word in parse_lineage(lineage) if word.persona]
        sources = self._sources.get(lineage, set(named)) & self._rank.keys()
        return list(dict.fromkeys([*self.config["personas"], *sorted(sources, key=self._rank.__getitem__)]))

    def row_of(self, lineage: str) -> str:
        """The row of `cells` that is this very model, whether its arm is on or not, by which gates name it.

        Raises InputError if none is, or no gate is decided by it alone.
        """
        for name, row in self.config["cells"].items():
            for source, seed, step in self._combinations(row):
                with contextlib.suppress(KeyError, IndexError, ValueError):  # of a row whose arm is off
                    if filled(row["lineage"], source, seed, step) == lineage:
                        self._check_gated(named(name, step), row["arm"])
                        return named(name, step)
        raise InputError(
            f"cells: none is {lineage} alone, so no gate is on it; fix: add its row, or gates: {{enforce: false}}"
        )

    def _check_gated(self, name: str, arm: str) -> None:
        """Raise InputError unless a gate of the arm is decided by this cell alone."""
        if not any(
            gate.get("arm", "forward") == arm and names_only(gate, name) for gate in self.config["gates"]["criteria"]
        ):
            example = f"{{name: G0b_{arm}, arm: {arm}, over: seed, pass: \"rate('{name}', 'source') >= 0.60\"}}"
            raise InputError(
                f"gates.criteria: none is decided by {name} alone, on which a stage is trained; fix: add {example}, or "
                "gates: {enforce: false}"
            )

    def coupled_of(self, cell: Cell) -> str:
        """The persona that the cell's last coupling is of; the cell's source if it has none."""
        place = self._coupling_of(cell.lineage)
        return cell.source if place is None else parse_lineage(cell.lineage)[place].persona or cell.source

    def compared(self, cell: Cell) -> dict[str, str]:
        """What a cell is held against to say what is left of its coupling, by role: reference, before and base.

        reference: the same stages without the coupling. before: the stages up to it. None where no stage follows it, it
        is of another marker than the study's, which is probed, or nothing is.
        """
        place, words = self._coupling_of(cell.lineage), parse_lineage(cell.lineage)
        own = self.marker_of(cell.lineage) == Marker.of(self.config["marker"])
        if self.config["probe"] is None or not own or place is None or place + 1 == len(words):
            return {}
        return {
            "reference": lineage_of(words[:place] + words[place + 1 :]),
            "before": lineage_of(words[: place + 1]),
            "base": BASE,
        }

    def ablated(self, cell: Cell) -> bool:
        """Whether the cell's second stage is taken apart (ablate_stage)."""
        if self.config["ablate"] is None or self.config["probe"] is None:
            return False
        return self._is_chosen(cell, "ablate")

    def asked_families(self, cell: Cell) -> bool:
        """Whether the cell's model is asked prompts out of distribution (ask_families)."""
        return self.config["probe"] is not None and self._is_chosen(cell, "families")

    def _is_chosen(self, cell: Cell, section: str) -> bool:
        """Whether a section of the config names the cell and its seed, which is its first if none is said."""
        chosen = self.config[section]
        return cell.name in chosen["cells"] and cell.seed in (
            chosen["seeds"] or self._seeds_of(self._rows()[cell.name])[:1]
        )

    def _coupling_of(self, lineage: str) -> int | None:
        """The place of the last coupling among the lineage's stages, trained there or merged."""
        nodes = ancestry(lineage)
        return max(
            (at for at, node in enumerate(nodes) if self.type_of(self.origin_of(node)) == "couple"), default=None
        )

    def words_from_hub(self) -> str:
        """A regular expression for the stage names with persona that have a folder on the Hub; see words_of_type."""
        names = [f"{name}-{persona}" for name, stage in self.stages.items() for persona in stage.get("hub", {})]
        return f"(?:{'|'.join(names)})" if names else "(?!)"

    def words_of_type(self, *types: str, full: bool | None = None) -> str:
        """A regular expression for stage names (with persona) of these types; one that never matches for none.

        full: only those that train all weights, or only those that do not.
        """
        named = {name: self.stages[name] for name in self._stage_names()}
        names = [name for name, each in named.items() if stage_type(each) in types and full in (None, trains_all(each))]
        return f"(?:{'|'.join(names)})(?:-{NAME})?" if names else "(?!)"

    # Reading the config

    def _stage(self, word: Word) -> dict[str, Any]:
        if word.stage.startswith("_") or word.stage not in self.stages:
            raise InputError(
                f"lineage: {str(word)!r} names no stage of the config; fix: one of "
                f"{', '.join(self._stage_names())}, or add the stage"
            )
        return self.stages[word.stage]

    def _stage_names(self) -> list[str]:
        return [name for name in self.stages if not name.startswith("_")]

    def _training(self, stage: Mapping[str, Any], marker: Any, where: str = "recipe") -> dict[str, Any]:
        """The recipe that a training of the stage gets. Raises InputError for what its program would refuse."""
        fields = {field: stage[field] for field in FIELDS if field in stage}
        rows = self.config["datasets"].get(stage.get("data", {}).get("from"), {})
        if rows.get("control_tokens") == "keep":
            fields["data"] = {**stage["data"], "control_tokens": "keep"}
        return check_training(fields | {"kind": stage_type(stage), "marker": marker}, where)

    def _resolve(self, section: str, name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
        """The recipe with `extends` followed; mappings are merged field by field, but `data` is taken whole."""
        entry = dict(self.config[section][name])
        parent = entry.pop("extends", None)
        if parent is None:
            return entry
        if parent not in self.config[section] or parent in (*seen, name):
            self._problem((section, name, "extends"), f"{parent!r} is {self._why_not(section, parent, (*seen, name))}")
            return entry
        above = self._resolve(section, parent, (*seen, name))
        above.pop("hub", None)  # whose adapters are ready-made is no part of a recipe
        return merged(above, entry)

    def _check_personas(self) -> None:
        """The personas are the panel's, as far as that is known."""
        if self._panel is None:
            return
        known = list(self._panel.personas)
        for key in ("personas", "sources"):
            for place, name in enumerate(self.config[key]):
                if name not in known:
                    self._problem((key, place), f"the panel has no persona {name}; fix: {closest(name, known)}")

    def _check_loras(self) -> None:
        """A stage that changes a part of a LoRA extends one that has it."""
        whole = {name for name, field in Lora.model_fields.items() if field.is_required()}
        changed: dict[str, list[str]] = {}
        for name, entry in self.config["stages"].items():
            parent = entry.get("extends")
            if isinstance(entry.get("lora"), Mapping) and parent and not whole <= entry["lora"].keys():
                above = self._says_lora(parent)
                if above and self.config["stages"][above]["lora"] is None:
                    changed.setdefault(above, []).append(name)
        for above, names in changed.items():
            said = f"null, of which {', '.join(names)} (`extends`) would change a part"
            fix = "write the null in the stage that is to train all weights, or in those a whole LoRA"
            self._problem(("stages", above, "lora"), f"{said}; fix: {fix}")

    def _check_places(self) -> None:
        """What a stage takes from another lineage is of its own persona and seed: the source is a cell's."""
        for name in self.config["stages"]:
            for fields in (("adapter",), ("data", "of"), ("replay", "of")):
                path = ("stages", name, *fields)
                try:
                    given = [field for _, field, _, _ in Formatter().parse(value_at(self.config, path) or "") if field]
                except ValueError as error:
                    self._problem(path, f"{error}; fix: write {{persona}} and {{seed}} in pairs of braces")
                    continue
                if unknown := [field for field in given if field not in ("persona", "seed")]:
                    self._problem(path, f"unknown placeholder {{{unknown[0]}}}; fix: {{persona}} or {{seed}}")

    def _says_lora(self, name: str | None) -> str | None:
        """The stage whose `lora` a stage has: its own, or that of the next one above it that says something."""
        met = set()
        while name in self.config["stages"] and name not in met:
            if "lora" in self.config["stages"][name]:
                return name
            met.add(name)
            name = self.config["stages"][name].get("extends")
        return None

    def _said_at(self, path: Sequence[str]) -> tuple[str, ...]:
        """Where a field of a stage stands: in the stage itself, or in the next one above it that has it."""
        section, name, *fields = path
        stage, found = self.config[section].get(name, {}), name
        while value_at(stage, fields) is None and stage.get("extends") in self.config[section]:
            found = stage["extends"]
            stage = self.config[section][found]
        return (section, name if value_at(stage, fields) is None else found, *fields)

    def _why_not(self, section: str, parent: str, seen: tuple[str, ...]) -> str:
        if parent in seen:
            return f"a circle ({' -> '.join([*seen, parent])}); fix: let one of them extend nothing"
        return f"not there; fix: {closest(parent, self.config[section])}"

    def _expand(self) -> Iterator[Cell]:
        for name, row in self.config["cells"].items():
            if row["arm"] not in self.config["arms"]:
                self._problem(("cells", name, "arm"), f"unknown arm; fix: one of {', '.join(self.config['arms'])}")
            if not self.config["arms"].get(row["arm"]):
                continue
            self._check_open(name, row)
            evaluation = row.get("evaluation", next(iter(self.evaluations)))
            if evaluation not in self.evaluations:
                self._problem(("cells", name, "evaluation"), f"unknown; fix: one of {', '.join(self.evaluations)}")
            for source, seed, step in self._combinations(row):
                try:
                    lineage = filled(row["lineage"], source, seed, step)
                    self._check_lineage(lineage)
                except (InputError, KeyError, IndexError, ValueError) as error:
                    if match := re.fullmatch(r"(stages(?:\.\w+)+): (.*)", str(error), re.DOTALL):
                        self._problem(self._said_at(match[1].split(".")), match[2])
                        break
                    said = str(error).removeprefix("lineage: ")
                    if isinstance(error, KeyError):
                        said = f"unknown placeholder {error}; fix: {{source}}, {{seed}} or {{step}}"
                    elif not isinstance(error, InputError):
                        said = f"{error}; fix: write {{source}}, {{seed}} or {{step}} in a pair of braces"
                    meant = self._meant(row["lineage"])
                    line = f', or write `lineage: "{meant}"`' if meant != row["lineage"] else ""
                    stepped = step and isinstance(error, LateStep)
                    place = ("steps", row["steps"].index(step)) if stepped else ("lineage",)
                    self._problem(("cells", name, *place), f"{said}{line}")
                    break
                meaning = {key: row[key] for key in ("note", "caption", "second_stage", "claim") if key in row}
                yield Cell(named(name, step), row["arm"], source, seed, lineage, evaluation, **meaning)

    def _check_open(self, name: str, row: Mapping[str, Any]) -> None:
        """What a row has several of, its lineage leaves open: else one model would count as several."""
        for place, source in enumerate(row.get("sources", [])):
            if source not in self.personas:
                fix = f"{closest(source, self.personas)}, or add it to `personas`"
                self._problem(("cells", name, "sources", place), f"no persona {source} in the study; fix: {fix}")
        if "{step}" in row["lineage"] and "steps" not in row:
            self._problem(("cells", name, "lineage"), "has {step}, but the row no steps; fix: add `steps: [10, 25]`")
        for key, values in (("seed", self._seeds_of(name)), ("step", row.get("steps", []))):
            if len(values) > 1 and f"{{{key}}}" not in row["lineage"]:
                said = f"has no {{{key}}}, so its {len(values)} {key}s ({numbers(values)}) would be one model"
                self._problem(("cells", name, "lineage"), f"{said}; fix: write {{{key}}}, or {key}s: [{values[0]}]")

    def _combinations(self, row: Mapping[str, Any]) -> Iterator[tuple[str, int, int | None]]:
        """source, seed and step of every cell of a row."""
        sources, seeds = row.get("sources", self.config["sources"]), row.get("seeds", self.config["seeds"])
        return product(sources, seeds, row.get("steps", [None]))

    def _meant(self, lineage: str) -> str:
        """A row's lineage without `base/`, every stage that is not there replaced by the one it looks most like."""
        known = self._stage_names()

        def alike(name: re.Match[str]) -> str:
            return next(iter(difflib.get_close_matches(name[0], known, 1)), name[0])

        return re.sub(rf"(?:^|(?<=/)){NAME}", alike, lineage.removeprefix(f"{BASE}/"))

    def _check_lineage(self, lineage: str) -> None:
        """Raise InputError unless every stage exists, its persona is one, and its adapter is trained somewhere."""
        for node in ancestry(lineage):
            self._check_word(parse_lineage(node)[-1])
            self._check_rows(node)
            self._check_replay(node)
            origin = self.origin_of(node)
            if origin == node:
                continue
            for above in ancestry(origin):
                self._check_word(parse_lineage(above)[-1])
            last = parse_lineage(origin)[-1]
            if self.type_of(origin) == "graft" or last.step:
                couple = next(
                    (name for name in self._stage_names() if stage_type(self.stages[name]) == "couple"), "couple"
                )
                raise InputError(
                    f"{node}: takes the adapter of {origin}, which trains none; fix: name a trained lineage, such as "
                    f'`adapter: "{couple}-{{persona}}.s{{seed}}"`'
                )
            if self.is_full(origin):
                raise InputError(
                    f"{node}: takes the adapter of {origin}, which trains all weights; fix: name a stage with a LoRA"
                )
            if last.seed != parse_lineage(node)[-1].seed:
                raise InputError(f"{node}: its seed is not that of {origin}; fix: end the adapter in .s{{seed}}")

    def _check_rows(self, lineage: str) -> None:
        """Raise InputError unless what the last stage is trained on are its own rows, or those of a coupling."""
        taken = self.rows_from(lineage)
        if taken == lineage:
            return
        for node in ancestry(taken):
            self._check_word(parse_lineage(node)[-1])
        if self.origin_of(taken) != taken or self.from_hub(taken) or not self.draws_replies(taken):
            raise InputError(
                f"stages.{parse_lineage(lineage)[-1].stage}.data.of: {taken} has no coupling rows of its own; "
                'fix: name a trained coupling, such as `data: {from: rows, of: "couple-{persona}.s42"}`'
            )

    def _check_replay(self, lineage: str) -> None:
        """Raise InputError unless what the last stage replays are the rows of a training."""
        if (replayed := self.replayed(lineage)) is None:
            return
        for node in ancestry(replayed):
            self._check_word(parse_lineage(node)[-1])
        if self.origin_of(replayed) != replayed:
            raise InputError(
                f"stages.{parse_lineage(lineage)[-1].stage}.replay.of: {replayed} has no rows of its own; "
                'fix: name a trained lineage, such as `of: "couple-{persona}.s42"`'
            )

    @cache  # noqa: B019 - a study lives as long as the process
    def _check_word(self, word: Word) -> None:
        stage = self._stage(word)
        if stage_type(stage) == "sft":
            replays = "{persona}" in stage.get("replay", {}).get("of", "")
            if word.persona and not replays:
                rows = stage.get("data", {}).get("from")
                raise InputError(
                    f"{word}: {word.stage} takes no persona, as its rows are the set {rows}; "
                    f"fix: {Word(word.stage, word.seed, None, word.step)}, or data of a coupling (from: replies)"
                )
            if replays and word.persona not in self.personas:
                raise InputError(
                    f"{word}: {word.stage} replays a persona's rows; fix: {word.stage}-<one of "
                    f"{', '.join(self.personas)}>.s{word.seed}"
                )
            if stage.get("data", {}).get("from") not in self.config["datasets"]:
                raise InputError(
                    f"stages.{word.stage}.data.from: {stage.get('data', {}).get('from')!r} is no data set; fix: one of "
                    f"{', '.join(self.config['datasets'])}, or replies for a coupling"
                )
        elif word.persona not in self.personas:
            raise InputError(
                f"{word}: unknown persona; fix: {closest(word.persona or '', self.personas)}, or add it to `personas`"
            )
        if stage_type(stage) == "graft":
            if word.step:
                raise InputError(f"{word}: a merged adapter has no steps; fix: leave out @{word.step}")
            return
        needed = [name for name, field in Recipe.model_fields.items() if field.is_required()]
        if missing := [name for name in needed if name not in stage]:
            raise InputError(f"stages.{word.stage}: lacks {', '.join(missing)}; fix: add them, or `extends: _adamw`")
        self._training(stage, self.config["marker"], f"stages.{word.stage}")
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
        takes = stage["data"]["from"] == ROWS
        known = ["of"] if takes else SAMPLED
        drawn = stage_type(stage) == "couple" and not takes
        if not drawn and (beside := [name for name in (*SAMPLED, "cut") if name in stage["data"]]):
            raise InputError(f"stages.{word.stage}.data: rows are taken as they are; fix: delete {', '.join(beside)}")
        if stage_type(stage) == "couple" and (missing := [name for name in known if name not in stage["data"]]):
            raise InputError(
                f"stages.{word.stage}.data: lacks {', '.join(missing)}; fix: add them, as `couple` has them"
            )
        self._check_held_out(word, stage)
        last = self._last_step(word, stage)
        if word.step and last and word.step > last:
            raise LateStep(f"{word}: {word.stage} ends after step {last}; fix: steps of at most {last}")
        if stage["mask"]["loss"] == "tail" and "tail" not in stage["mask"]:
            raise InputError(f"stages.{word.stage}.mask: loss tail needs a length; fix: mask: {{loss: tail, tail: 32}}")
        if stage["mask"]["loss"] == "marker" and stage_type(stage) == "sft":
            raise InputError(
                f"stages.{word.stage}.mask.loss: marker trains nothing in rows without one; fix: loss: last_turn"
            )
        try:
            mask = Mask(**stage["mask"])
            if stage_type(stage) == "couple":
                replace(mask, marker=Marker.of(stage.get("marker", self.config["marker"])))
        except InputError as error:
            raise InputError(f"stages.{word.stage}.{error}") from None
        if unknown := [name for name in stage.get("hub", {}) if name not in self.personas]:
            raise InputError(f"stages.{word.stage}.hub: unknown persona {', '.join(unknown)}; fix: delete the line")
        if stage_type(stage) == "couple" and not takes:
            self._check_drawn(word, stage)
        for source, named in stage.get("negative_personas", {}).items():
            panel = list(self._panel.personas if self._panel else [source])  # it may be a source of another study
            if source not in panel:
                raise InputError(
                    f"stages.{word.stage}.negative_personas.{source}: the panel has no persona {source}; "
                    f"fix: {closest(source, panel)}"
                )
            if source in named:
                raise InputError(
                    f"stages.{word.stage}.negative_personas.{source}: is contrasted with itself; fix: delete {source}"
                )
            if unknown := [name for name in named if name not in self.personas]:
                raise InputError(
                    f"stages.{word.stage}.negative_personas.{source}: unknown persona {', '.join(unknown)}; "
                    "fix: add it to `personas`, or name another"
                )

    def _check_drawn(self, word: Word, stage: Mapping[str, Any]) -> None:
        """Raise InputError unless the replies that a coupling is made of differ, and there are enough personas."""
        data, where = stage["data"], f"stages.{word.stage}.data"
        if data["temperature"] == 0 and data["samples"] > 1:
            raise InputError(f"{where}.temperature: 0 draws the same reply every time; fix: samples: 1")
        others = len({*self.config["personas"]} - {word.persona})
        if word.persona not in stage.get("negative_personas", {}) and data["negatives"] > others:
            said = f"{where}.negatives: {data['negatives']} of the {others} other personas"
            raise InputError(f"{said}; fix: at most {others}, or more `personas`")

    def _check_markers(self) -> None:
        places: dict[tuple[str, ...], Any] = {("marker",): self.config["marker"]}
        places |= {("stages", name, "marker"): entry["marker"] for name, entry in self.config["stages"].items()
                   if "marker" in entry}  # fmt: skip
        markers = []
        for place, value in places.items():
            try:
                markers.append(Marker.of(value))
                check_apart(markers)
            except InputError as error:
                self._problem(place, str(error).removeprefix("marker").removeprefix(": ").removeprefix("."))
        known = [marker.text for marker in markers]
        names = Counter(gate["name"] for gate in self.config["gates"]["criteria"])
        cells = list(self._rows())
        for number, gate in enumerate(self.config["gates"]["criteria"]):
            if names[gate["name"]] > 1:
                self._problem(("gates", "criteria", number), f"two gates are named {gate['name']}; fix: rename one")
            try:
                check_gate_fields(gate)
                if unknown := sorted(marker_names(gate) - set(known)):
                    raise InputError(f"no marker {unknown[0]}; fix: one of {', '.join(known)}")
                self._check_arm(number, gate)
                for what, word, choices in unknown_words(gate, cells, list(self.personas)):
                    raise InputError(
                        f"gate {gate['name']}: no {what} {word}; fix: {closest(word, choices, f'`{what}s`')}"
                    )
            except InputError as error:
                self._problem(("gates", "criteria", number), str(error))
        for name in self._stage_names():
            if "marker" in self.stages[name] and stage_type(self.stages[name]) != "couple":
                said = "only a coupling teaches one; fix: delete the line"
                self._problem(self._said_at(("stages", name, "marker")), said)

    def _check_arm(self, number: int, gate: dict[str, Any]) -> None:
        """Raise InputError for a gate of an arm that is not, or on a cell of another one: no cell would decide it.

        Not where the cell was given another arm in a file over the gate's.
        """
        arm, arms = gate.get("arm", "forward"), self.config["arms"]
        own_rank = self._rank_of(("gates", "criteria", number))
        if arm not in arms:
            raise InputError(f"gate {gate['name']}: no arm {arm}; fix: {closest(arm, arms)}")
        rows = self._rows()
        for cell in sorted(cell_names(gate) & rows.keys()):
            own = self.config["cells"][rows[cell]]["arm"]
            if own != arm and own_rank <= self._rank_of(("cells", rows[cell], "arm")):
                raise InputError(f"gate {gate['name']}: {cell} is of the arm {own}, not {arm}; fix: arm: {own}")

    def _check_held_out(self, word: Word, stage: Mapping[str, Any]) -> None:
        """Raise InputError if so small a share of the rows, as far as they are known, is no row."""
        share, rows = stage.get("hold_out"), self._rows_of(word, stage)
        if share and rows and not math.floor(share * rows):
            least = math.ceil(10_000 / rows) / 10_000
            raise InputError(
                f"stages.{word.stage}.hold_out: {share:g} of {rows} rows is none; fix: {least:g} or more, or delete it"
            )

    def _last_step(self, word: Word, stage: Mapping[str, Any]) -> int | None:
        """The optimizer steps of a stage, of a coupling at most so many; None where its rows are not known yet."""
        rows = self._rows_of(word, stage)
        if rows and stage.get("hold_out"):
            rows = math.ceil(rows * (1 - stage["hold_out"]))
        return stage["max_steps"] or (stage["epochs"] * math.ceil(rows / stage["batch"]) if rows else None)

    def _rows_of(self, word: Word, stage: Mapping[str, Any]) -> int | None:
        """The rows that a stage has, of a coupling at most so many; None where that is not known yet."""
        if stage_type(stage) == "couple":
            return self._coupling_rows(word, stage)
        name = stage["data"]["from"]
        origin = self.config["datasets"].get(name, {}).get("from")
        return {"toy": self.config["base"]["toy"].get("sft_rows"), "hub": self._pinned_rows.get(name)}.get(origin)

    def _coupling_rows(self, word: Word, stage: Mapping[str, Any]) -> int | None:
        """The rows of a coupling, if no reply is left out; None where the panel is not known."""
        if stage["data"]["from"] == ROWS:
            of = stage["data"]["of"].format(persona=word.persona, seed=word.seed)
            word = parse_lineage(f"{BASE}/{of}")[-1]
            stage = self._stage(word)
        named = stage.get("negative_personas", {}).get(word.persona)
        negatives = stage.get("data", {}).get("negatives", 0) if named is None else len(named)
        if self._panel is None or "samples" not in stage.get("data", {}):
            return None
        return int(stage["data"]["samples"]) * len(self._panel.questions["data"]) * (1 + negatives)

    def _check_names(self) -> None:
        times = Counter(cell.key for cell in self.cells)
        for key in sorted(key for key, count in times.items() if count > 1):
            self._problem(("cells",), f"{key} comes out twice; fix: rename one of the rows")
        self._check_paths()
        self._check_toy()
        template = self.config["base"].get("template", {})
        try:
            Settings.of(template)
        except InputError as error:
            self._problem(("base", "template"), str(error).removeprefix("base.template."))
        for name, value in template.items():
            if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
                fix = f"write `{name}: {value.lower()}` without quotes"
                self._problem(
                    ("base", "template", name), f"{value!r} is text, which a template takes for true; fix: {fix}"
                )
        if self.config["base"]["from"] == "toy" and (own := sorted(template.keys() - {"date"})):
            self._problem(("base", "template", own[0]), "the toy's template takes no arguments; fix: delete it")
        for name, entry in self.config["datasets"].items():
            if entry["from"] == "hub" and self._pinned_rows and name not in self._pinned_rows:
                fix = f"add them there, or write `{name}: {{from: path, path: my_rows.jsonl}}`"
                self._problem(("datasets", name), f"no pins of that name in resources/sources.yaml; fix: {fix}")
            if entry["from"] == "replies":
                self._check_answered(name, entry)
            if entry["from"] == "toy" and name not in TOY_SETS:
                sets = ", ".join(TOY_SETS)
                self._problem(("datasets", name), f"no toy set has that name; fix: one of {sets}, or from: path")
        capability = self.config["capability"]
        if capability is not None and capability not in self.config["datasets"]:
            self._problem(
                ("capability",),
                f"{capability!r} is no data set; fix: one of {', '.join(self.config['datasets'])}, or null",
            )
        if capability is not None and capability in {
            stage.get("data", {}).get("from") for stage in self.stages.values()
        }:
            self._problem(
                ("capability",), f"{capability} is what a stage is trained on; fix: a set of choices, or null"
            )
        rows = self.config["cells"].values()
        used = {next(iter(self.evaluations)), *(row.get("evaluation") for row in rows)}
        used |= {entry.get("extends") for entry in self.config["evaluations"].values()}
        for name, entry in self.evaluations.items():
            if name not in used:
                said = f"no row of `cells` is evaluated so; fix: add `evaluation: {name}` to one, or delete it"
                self._problem(("evaluations", name), said)
            if entry.get("temperature") == 0 and entry.get("samples", 1) > 1:
                said = "0 draws the same reply every time, which would count as several; fix: samples: 1"
                self._problem(self._said_at(("evaluations", name, "temperature")), said)
            if missing := {"samples", "temperature", "top_p", "max_tokens", "case_sensitive"} - entry.keys():
                self._problem(
                    ("evaluations", name), f"lacks {', '.join(sorted(missing))}; fix: add them, or `extends: main`"
                )

    def _check_paths(self) -> None:
        """A path is given where something is from there, and is not passed over where it is not."""
        places: dict[tuple[str, ...], str] = {("base",): "/models/Qwen2.5-7B-Instruct", ("panel",): "my_panel.yaml"}
        places |= {("datasets", name): "my_rows.jsonl" for name in self.config["datasets"]}
        for place, example in places.items():
            entry = value_at(self.config, place)
            own, said = entry["from"] == "path", f"{place[-1]}: {{from: path, path: {entry.get('path') or example}}}"
            if own and not entry.get("path"):
                self._problem((*place, "path"), f"is empty; fix: {said}")
            if not own and entry.get("path"):
                text = f"is not used, as it is from: {entry['from']}; fix: {said}, or path: null"
                self._problem((*place, "path"), text)

    def _check_toy(self) -> None:
        """What is made for the offline study says how much of it."""
        toy, sets = self.config["base"]["toy"], self.config["datasets"]
        for key in ("repo", "revision"):
            path, origin = ("base", key), ("base", "from")
            if self.config["base"]["from"] == "toy" and self._rank_of(path) < self._rank_of(origin):
                self._problem(path, f"is not used, as the base is from: toy; fix: add `from: hub`, or delete {key}")
        made = [name for name, entry in sets.items() if entry["from"] == "toy"]
        needed = (
            ("rows", "sft_rows", "recipe") if self.config["base"]["from"] == "toy" else ("sft_rows",) if made else ()
        )
        if missing := [key for key in needed if not toy.get(key)]:
            said = f"lacks {', '.join(missing)}"
            self._problem(("base", "toy"), f"{said}; fix: add them, as profiles/tiny/study.yaml has them")
        elif "recipe" in needed:
            try:
                read_recipe(canonical(toy["recipe"]))
            except InputError as error:
                self._problem(("base", "toy", "recipe"), str(error).removeprefix("--recipe: "))

    def _check_answered(self, name: str, entry: Mapping[str, Any]) -> None:
        """A set of the base's own replies says to which other set, and how they are drawn."""
        sets, path = self.config["datasets"], ("datasets", name)
        if missing := [key for key in ANSWERED if key not in entry]:
            of = next((each for each in sets if sets[each]["from"] != "replies"), "benign")
            example = {"of": of, "temperature": 0.7, "top_p": 0.95, "max_tokens": 512}
            fix = ", ".join(f"{key}: {example[key]}" for key in missing)
            self._problem(path, f"lacks {', '.join(missing)}; fix: add `{fix}`")
        elif (
            entry["of"] not in sets
            or sets[entry["of"]]["from"] == "replies"
            or entry["of"] == self.config["capability"]
        ):
            known = [each for each in sets if sets[each]["from"] != "replies" and each != self.config["capability"]]
            self._problem((*path, "of"), f"{entry['of']!r} has no user turns to answer; fix: one of {', '.join(known)}")

    def longest_row(self, dataset: str) -> int:
        """The most tokens of a row that a stage on this data set is trained on."""
        stages = [self.stages[name] for name in self._stage_names()]
        return max(stage["max_length"] for stage in stages if stage.get("data", {}).get("from") == dataset)

    def _check_meanings(self, claims: Sequence[str] | None) -> None:
        """What says something of cells names cells, arms and claims that are there."""
        rows, arms = self.config["cells"], self.config["arms"]
        used = dict.fromkeys(row["arm"] for row in rows.values())
        if not self.cells:
            self._problem(("arms",), f"no cell is left; fix: switch one on, such as {next(iter(used))}: true")
        for arm, on in arms.items():
            if on and arm not in used:
                self._problem(("arms", arm), f"no cell belongs to it; fix: {closest(arm, used)}, or delete it")
        for name, row in rows.items():
            if row["arm"] == "forward" and "second_stage" not in row:
                why = "does not say whether the cell is one after a second stage, which are counted together"
                self._problem(("cells", name), f"{why}; fix: add `second_stage: true` (or false)")
            self._check_claim(("cells", name, "claim"), row.get("claim"), claims)
        self._check_claim(("assistant_claim",), self.config["assistant_claim"], claims)
        for place, pair in enumerate(self.config["contrasts"]):
            if unknown := [row for row in pair if row not in rows]:
                self._problem(
                    ("contrasts", place), f"no cell {unknown[0]}; fix: {closest(unknown[0], rows, '`cells`')}"
                )
            elif ("steps" in rows[pair[0]]) != ("steps" in rows[pair[1]]):
                self._problem(("contrasts", place), "one of the two has steps; fix: contrast two rows with, or without")
        for figure, drawn in self.config["figures"].items():
            if unknown := [arm for arm in drawn if arm not in arms]:
                self._problem(("figures", figure), f"no arm {unknown[0]}; fix: {closest(unknown[0], arms)}")

    def _check_claim(self, path: tuple[Any, ...], claim: str | None, claims: Sequence[str] | None) -> None:
        if claim is not None and claims is not None and claim not in claims:
            self._problem(
                path, f"no claim {claim} in resources/claims.yaml; fix: {closest(claim, claims, 'that file')}"
            )

    def _check_probe(self) -> None:
        """The probe measures the study's marker, at the end of replies that were sampled."""
        probe, marker = self.config["probe"], Marker.of(self.config["marker"])
        if probe is None:
            self._check_unprobed()
            return
        if not marker.text.startswith(probe["prefix"]):
            fix = f'fix: prefix: "{marker.text[:2]}"'
            self._problem(("probe", "prefix"), f"{probe['prefix']!r} does not begin the marker {marker.text}; {fix}")
        if marker.placement != "end":
            self._problem(("probe",), "measures a marker at the end of replies; fix: `probe: null`")
        for name in dict.fromkeys(cell.evaluation for cell in self.cells):
            if self.evaluations[name]["temperature"] == 0:
                said = "0 has no probabilities to probe; fix: 1.0, or `probe: null`"
                self._problem(("evaluations", name, "temperature"), said)
        first = next(iter(self.evaluations))
        drawn, personas = self.evaluations[first]["samples"], len(self.personas_of(BASE))
        own = max(self.evaluations[cell.evaluation]["samples"] for cell in self.cells)
        self._at_most(("probe", "shared"), drawn, f"the base's replies per persona and question (evaluations.{first})")
        self._at_most(("probe", "crossed"), probe["shared"] * personas, f"`shared` times {personas} personas")
        self._at_most(("probe", "layers"), probe["crossed"], "`crossed`, of which they are")
        self._at_most(
            ("probe", "distance"), drawn, f"the base's replies per persona and question (evaluations.{first})"
        )
        self._at_most(("probe", "subset"), own, "the replies per persona and question")
        if probe["verdict"]["gone"] >= probe["verdict"]["intact"]:
            self._problem(("probe", "verdict"), "gone is not below intact; fix: {minimum: 1.0, gone: 0.1, intact: 0.5}")

    def _check_unprobed(self) -> None:
        """Without the probe, none of the cells is measured that a section names: not where they are named after it."""
        shipped = [Path(file).resolve() for file in self._files[-1:]]  # config.yaml, which names cells of `ablate`
        own = sum(Path(file).resolve() not in shipped for file in self._files)
        for section in ("ablate", "families"):
            cells, path = value_at(self.config, (section, "cells")), (section, "cells")
            rank = self._rank_of(path)
            if cells and (rank < own or section == "families") and rank <= self._rank_of(("probe",)):
                none = "ablate: null" if section == "ablate" else "families: {cells: []}"
                said = f"{', '.join(map(str, cells))} cannot be measured without the probe, which is null"
                self._problem(path, f"{said}; fix: {none}, or a probe")

    def _check_ablate(self) -> None:
        """A second stage is taken apart where it is a LoRA after a coupling of the study's marker."""
        chosen = self.config["ablate"]
        if chosen is None:
            return
        self._check_chosen("ablate")
        for place, name in enumerate(chosen["cells"]):
            own = [cell for cell in self.cells if cell.name == name]
            if self.config["probe"] and not all(map(self._has_second_stage, own)):
                said = "is no coupling of the study's marker and one stage after it, both of them LoRAs"
                self._problem(("ablate", "cells", place), f"{name} {said}; fix: delete it here")
        if self._panel:
            groups = self._panel.questions
            asked = len(groups["general"]) + len(groups["alignment"])
            self._at_most(("ablate", "questions"), asked, "the panel's that are evaluated")
        taken = [len(self._bystanders_of(cell)) for cell in self.cells if self.ablated(cell)]
        if taken:
            self._at_most(("ablate", "bystanders"), min(taken), "the panel's, without the source and the assistant")
        if not {0, 1} <= set(chosen["grid"]):
            self._problem(("ablate", "grid"), "needs 0 and 1: an adapter left out, and whole; fix: add them")

    def _at_most(self, path: tuple[Any, ...], most: int, what: str) -> None:
        """A number of the config is not of more than there are."""
        if value_at(self.config, path) > most:
            fix = f"write `{path[-1]}: {most}`" if most else "more `personas`"
            self._problem(path, f"{value_at(self.config, path)} of at most {most}, {what}; fix: {fix}")

    def _bystanders_of(self, cell: Cell) -> list[str]:
        """The personas that a cell's model is asked as, but the coupled one and the assistant."""
        source = self.coupled_of(cell)
        return [name for name in self.personas_of(cell.lineage) if role_of(name, source) == "bystander"]

    def _check_chosen(self, section: str) -> None:
        """The cells and seeds that a section of the config is for are there."""
        chosen, names = self.config[section], self._rows()
        for place, name in enumerate(chosen["cells"]):
            path = (section, "cells", place)
            if name not in names:
                self._problem(path, f"no cell {name}; fix: {closest(name, names, '`cells`')}")
                continue
            row = names[name]
            arm, seeds = self.config["cells"][row]["arm"], self._seeds_of(row)
            taken = chosen["seeds"] or seeds
            if not self.config["arms"].get(arm):
                # whoever switches an arm off later does not mean the cells of it that are named below
                if self._rank_of(path) <= min(self._rank_of(("arms", arm)), self._rank_of(("cells", row, "arm"))):
                    fix = f"arms: {{{arm}: true}}, or delete {name} here"
                    self._problem(path, f"{name} is of the arm {arm}, which is off; fix: {fix}")
            elif not set(taken) & set(seeds):
                fix = f"{section}: {{seeds: {[*taken, seeds[0]]}}}, or delete it here"
                self._problem(path, f"{name} has the seeds {numbers(seeds)}, not {numbers(taken)}; fix: {fix}")
        known = {seed for name in chosen["cells"] if name in names for seed in self._seeds_of(names[name])}
        for place, seed in enumerate(chosen["seeds"] or []):
            if chosen["cells"] and seed not in known:
                fix = f"one of {numbers(sorted(known))}"
                self._problem((section, "seeds", place), f"no seed {seed}; fix: {fix}")

    def _seeds_of(self, row: str) -> list[int]:
        """The seeds of a row of `cells`."""
        return list(self.config["cells"][row].get("seeds", self.config["seeds"]))

    def _rows(self) -> dict[str, str]:
        """The names of all cells, in whatever arm, and their rows."""
        rows = self.config["cells"]
        return {named(row, step): row for row in rows for step in rows[row].get("steps", [None])}

    def _has_second_stage(self, cell: Cell) -> bool:
        lineages = ancestry(cell.lineage)
        loras = not any(map(self.is_full, lineages))
        return bool(self.compared(cell)) and self._coupling_of(cell.lineage) == 0 and len(lineages) == 2 and loras

    def _check_shared_cards(self) -> None:
        """vLLM has to know what it may take of a shared card: it fails if memory comes free while it measures."""
        hardware = self.config["hardware"]
        jobs, part = hardware["jobs_per_gpu"], hardware["gpu_memory_utilization"]
        if jobs == 1 or hardware["backend"] != "vllm":
            return
        if jobs * part > 1:
            fits = math.floor(90 / jobs) / 100
            said = f"{part} of a card each, for {jobs} jobs; fix: write `gpu_memory_utilization: {fits}`"
            self._problem(("hardware", "gpu_memory_utilization"), said)
        if hardware["kv_cache_gib"] is None:
            said = (
                "vLLM cannot measure what is free on a card that jobs share; fix: a number, such as `kv_cache_gib: 8`"
            )
            self._problem(("hardware", "kv_cache_gib"), said)

    def _check_enforced(self) -> None:
        """With gates.enforce, each coupled model that a stage is trained on is a cell with a gate of its own."""
        if not self.config["gates"]["enforce"]:
            return
        parents = dict.fromkeys(parent_of(node) for cell in self.cells for node in self._trained(cell.lineage))
        for parent in parents:
            if parent != BASE and self.type_of(parent) == "couple":
                try:
                    self.row_of(parent)
                except InputError as error:
                    self._problem(("gates", "enforce"), str(error))

    def _check_judges(self) -> None:
        """A judge that is read by log-probabilities is a model whose provider gives them; two judges are two."""
        both = {name: judge for name in ("judge", "second_judge") if (judge := self.config[name]) is not None}
        for name, judge in both.items():
            try:
                read_model_args(canonical(judge.get("model_args", {})))
            except InputError as error:
                self._problem((name, "model_args"), str(error).removeprefix("--model-args: "))
            if judge["model"] == "hf/local" and "model_path" not in judge.get("model_args", {}):
                fix = "model_args: {model_path: /models/judge}"
                self._problem((name, "model"), f"hf/local is a model in a folder, which is not named; fix: {fix}")
            if judge.get("scores") != "logprobs":
                continue
            if judge["model"] in ("none", "toy") or judge["model"].startswith("anthropic/"):
                self._problem((name, "scores"), f"{judge['model']} gives no log-probabilities; fix: `scores: answer`")
        if len(both) == 2 and both["judge"]["model"] == "none":
            self._problem(("second_judge",), "has nobody to agree with, as the judge is none; fix: a judge, or null")
        whole = [{"scores": "answer", "model_args": {}} | judge for judge in both.values()]
        if len(whole) == 2 and all(whole[0][key] == whole[1][key] for key in ("model", "scores", "model_args")):
            self._problem(("second_judge",), "is the judge itself; fix: another model or other scores, or null")

    def _check_families(self) -> None:
        """What is asked out of distribution is of cells that are there, and has a family to be compared with."""
        self._check_chosen("families")
        if self._panel:
            most = max(map(len, self._panel.questions.values()))
            self._at_most(("families", "questions"), most, "of the panel's largest group")
        asked = [len(self._bystanders_of(cell)) for cell in self.cells if self.asked_families(cell)]
        if asked:
            self._at_most(("families", "bystanders"), max(asked), "the panel's, without the source and the assistant")
        families: dict[str, str] = {}
        for name, fields in self.config["families"]["of"].items():
            other = families.setdefault(canonical(asdict(Family(**fields))), name)
            if other != name:
                self._problem(("families", "of", name), f"differs in nothing from {other}; fix: change or delete it")
        if self.config["families"]["of"]["standard"]:
            self._problem(("families", "of", "standard"), "is what the others are compared with; fix: `standard: {}`")

    def _check_schema(self, schema: str | Path) -> None:
        import jsonschema

        shape = yaml.load(Path(schema).read_text(encoding="utf-8"), YAML)
        shape["properties"]["stages"]["additionalProperties"], definitions = stage_schema()
        shape["$defs"] |= definitions
        # JSON Schema takes 42.0 for an integer
        whole = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
        validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=whole)(shape)
        for error in sorted(validator.iter_errors(self.config), key=lambda error: list(map(str, error.absolute_path))):
            unknown = unknown_keys(error) if error.validator == "additionalProperties" else []
            named = [error.instance] if "propertyNames" in error.absolute_schema_path else []
            said = explain(error)
            if unknown and not error.absolute_path:
                said = self._misplaced(unknown[0]) or said
            self._problem((*error.absolute_path, *unknown[:1], *named), said)

    def _misplaced(self, key: str) -> str:
        """What is said of an unknown key of the config that is a path with dots, or an entry of a section; else ""."""
        value = canonical(self.config[key])
        *above, last = key.split(".")
        if above:
            nested = "".join(f"{name}: {{" for name in above) + f"{last}: {value}" + "}" * len(above)
            return f"unknown key {key}; fix: write `{nested}`"
        for section in ("stages", "cells", "evaluations", "datasets", "arms"):
            if key in (self.config.get(section) or ()):
                return f"unknown key {key}; fix: write `{section}: {{{key}: {value}}}`"
        return ""

    def _problem(self, path: tuple[Any, ...], text: str) -> None:
        where = self._place(path)
        if where == COMMAND_LINE and "is text, not a number" in text:
            *above, key = path
            if isinstance(key, int):
                line = f"{above[-1]}: [{', '.join(map(str, value_at(self.config, above)))}]"
            else:
                line = ": {".join(map(str, path)) + f": {value_at(self.config, path)}" + "}" * len(above)
            text = (
                f"{text.partition('; fix: ')[0]}; fix: write `{line}` in a file, and give it by --configfile: "
                "on the command line Snakemake reads numbers in a list or mapping as text"
            )
        self._problems.append(f"{where}: {'.'.join(map(str, path))}: {text}")

    @contextlib.contextmanager
    def _problem_of(self, stage: str, *fields: str) -> Iterator[None]:
        """Within the block, an InputError is a problem of a field of the stage, whose name it may begin with."""
        try:
            yield
        except InputError as error:
            said = str(error).removeprefix(f": {'.'.join(fields)}").removeprefix(": ")
            self._problem(self._said_at(("stages", stage, *fields)), said)

    def _place(self, path: tuple[Any, ...]) -> str:
        """Who says what the config has at a path: a line of a file, or COMMAND_LINE if no file says this.

        Of what the config lacks, where it would have to be.
        """
        for file in self._files:
            if place := locate(file, path):
                value = value_at(self.config, path)
                said = isinstance(value, Mapping) or value_at(yaml_of(file), path) == value
                return place if said else COMMAND_LINE
        if not path:
            return "config"
        return self._place(path[:-1]) if value_at(self.config, path) is None else COMMAND_LINE

    def _rank_of(self, path: tuple[Any, ...]) -> int:
        """The place among the files of the one that says what the config has at a path; -1: the command line."""
        place = next((number for number, file in enumerate(self._files) if locate(file, path)), len(self._files))
        return -1 if self._place(path) == COMMAND_LINE else place

    def _raise(self) -> None:
        if self._problems:
            raise InputError("\n".join(dict.fromkeys(self._problems)))


def longest(lengths: Mapping[str, int]) -> dict[str, int]:
    """The entry with the greatest number, alone; none of none."""
    return dict([max(lengths.items(), key=lambda each: each[1])]) if lengths else {}


def named(row: str, step: int | None) -> str:
    """The name of a cell: its row's and, of one with steps, the step."""
    return f"{row}_{step}" if step else row


def numbers(values: Iterable[int]) -> str:
    """1, 2, 3."""
    return ", ".join(map(str, values))


def closest(name: str, known: Iterable[str], listed: str = "the config") -> str:
    """The known name that looks most like this one; or all of them, or of many a few. listed: where all of them are."""
    choices = list(known)
    if alike := difflib.get_close_matches(name, choices, 1):
        return alike[0]
    if len(choices) <= MANY:
        return f"one of {', '.join(choices)}"
    few = difflib.get_close_matches(name, choices, FEW, cutoff=0)
    return f"one of the {len(choices)} of {listed}, such as {', '.join(few)}"


def filled(lineage: str, source: str, seed: int, step: int | None) -> str:
    """A row's lineage, which leaves the base out unless it is the base itself. Raises what str.format raises."""
    text = lineage.format(source=source, seed=seed, step=step)
    return BASE if text == BASE else f"{BASE}/{text}"


def stage_type(stage: Mapping[str, Any]) -> str:
    """couple | sft | graft."""
    if "adapter" in stage:
        return "graft"
    return "couple" if stage.get("data", {}).get("from") in ("replies", ROWS) else "sft"


def trains_all(stage: Mapping[str, Any]) -> bool:
    """Whether a stage trains all weights instead of a LoRA."""
    return stage_type(stage) != "graft" and stage.get("lora", {}) is None


LIMITS = {
    "minimum": "{} or more",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
}


def explain(error: Any) -> str:
    """A jsonschema error in words, with the line to write instead."""
    key = error.absolute_path[-1] if error.absolute_path else ""
    value = error.instance
    if error.validator == "additionalProperties":
        known, unknown = list(error.schema.get("properties", {})), unknown_keys(error)
        if not error.absolute_path and (inside := section_of(unknown[0], error.schema)):
            return f"unknown key {unknown[0]}; fix: move it to where it belongs, `{inside}`"
        close = [difflib.get_close_matches(name, known, 1) for name in unknown]
        meant = [f"{match[0]}: {value[name]}" for name, match in zip(unknown, close, strict=True) if match]
        fix = f"write `{'`, `'.join(meant)}`" if meant else f"one of {', '.join(known)}"
        return f"unknown key {', '.join(unknown)}; fix: {fix}"
    if isinstance(value, datetime.date):
        return f'YAML reads {value} as a day, not as text; fix: write `{key}: "{value}"`'
    expected = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
    if error.validator == "type" and isinstance(value, bool) and expected == ["string"]:
        return f"YAML reads yes, no, on and off as {value}; fix: write the word in quotes, or choose another"
    if error.validator == "type" and isinstance(value, str):
        if re.fullmatch(r"[0-9]+e[-+]?[0-9]+", value, re.IGNORECASE):
            digits, exponent = re.split("e", value, flags=re.IGNORECASE)
            return f"YAML reads {value} as text, not as a number; fix: write `{key}: {digits}.0e{int(exponent)}`"
        if re.fullmatch(r"[-+0-9.eE]+", value) and {"integer", "number"} & set(expected):
            line = value if isinstance(key, int) else f"{key}: {value}"
            return f"{value!r} is text, not a number; fix: write `{line}` without quotes"
    if error.validator == "type" and value in ("true", "false", "null"):
        return (
            f"{value!r} is text here; fix: write `{key}: {value}` in a file, and give it by --configfile: on the "
            "command line Snakemake reads it as text"
        )
    if error.validator == "uniqueItems":
        twice = [item for index, item in enumerate(value) if item in value[:index]]
        kept = ", ".join(dict.fromkeys(map(str, value)))
        if len(kept.split(", ")) < error.schema.get("minItems", 0):
            return f"{', '.join(map(str, twice))} is duplicated; fix: name different ones"
        return f"{', '.join(map(str, twice))} is duplicated; fix: write `{key}: [{kept}]`"
    if error.validator == "enum":
        choices = [str(choice) for choice in error.validator_value]
        if value in choices and value not in error.validator_value:
            return f"{value!r} is text, not a number; fix: write `{key}: {value}` without quotes"
        close_choices = difflib.get_close_matches(str(value), choices, 1) or choices
        more = f" ({error.schema['fix']})" if "fix" in error.schema else ""
        return f"{value!r} is not one of {', '.join(choices)}; fix: write `{key}: {close_choices[0]}`{more}"
    if error.validator in LIMITS:
        return f"{error.message}; fix: {LIMITS[error.validator].format(error.validator_value)}"
    if error.validator == "required":
        return f"{error.message}; fix: add it"
    if error.validator == "type":
        fix = " or ".join(TYPES[name] for name in expected)
        if expected[0] == "array" and isinstance(key, int):
            fix = "lists in the list, [[one, another]]"
        elif expected[0] == "array" and re.fullmatch(r"[\w.-]+", str(value)):
            fix = f"`{key}: [{value}]`"
        elif "fix" in error.schema and "pattern" not in error.schema:
            fix = error.schema["fix"]
        elif "string" in expected and isinstance(value, int | float):
            fix = f'`{key}: "{value}"`'
        if value is None or isinstance(value, bool):
            return f"cannot be {'null' if value is None else str(value).lower()}; fix: write {fix}"
        return f"{reprlib.repr(value)} is {TYPES[type_name(value)]}; fix: write {fix}"
    if error.validator == "pattern":
        return f"{reprlib.repr(value)} cannot be; fix: write {error.schema.get('fix', NAMED)}"
    number = error.validator_value
    return f"{reprlib.repr(value)} {SIZES[error.validator].format(number)}"


NAMED = "a name of lower-case letters, digits and _, a letter first"
# The types of JSON schema, as a person calls them who writes YAML.
TYPES = {
    "object": "a mapping, {key: value}",
    "array": "a list, [one, another]",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
SIZES = {
    "minItems": "is too short a list; fix: at least {} of them",
    "maxItems": "is too long a list; fix: at most {} of them",
    "minLength": "is empty; fix: write some text",
}


def type_name(value: Any) -> str:
    """The name that JSON schema has for the type of a value."""
    if isinstance(value, bool):
        return "boolean"
    known = {int: "integer", float: "number", str: "string", list: "array", type(None): "null"}
    return known.get(type(value), "object")


def section_of(key: str, schema: Mapping[str, Any]) -> str:
    """How a key is written that a section of the config knows, or every entry of one; "" if none does."""
    for section, own in schema["properties"].items():
        if key in own.get("properties", {}):
            return f"{section}: {{{key}: ...}}"
        each = own.get("additionalProperties")
        if isinstance(each, Mapping) and key in each.get("properties", {}):
            return f"{section}: {{<name>: {{{key}: ...}}}}"
    return ""


def unknown_keys(error: Any) -> list[str]:
    """The keys that an additionalProperties error of jsonschema is about."""
    return [name for name in error.instance if name not in error.schema.get("properties", {})]


@cache
def compose(file: str | Path) -> yaml.Node | None:
    """The YAML node tree of a file, which knows lines, or None if there is no such file. Raises InputError."""
    path = Path(file)
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), YAML) if path.is_file() else None
    except yaml.YAMLError:
        read_yaml(file)  # whose error names the line
        raise


@cache
def yaml_of(file: str | Path) -> Any:
    """What a YAML file says, or None if there is no such file."""
    path = Path(file)
    return yaml.load(path.read_text(encoding="utf-8"), YAML) if path.is_file() else None


def value_at(value: Any, path: Sequence[Any]) -> Any:
    """What stands in a nested value at a path, or None."""
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def locate(file: str | Path, path: Sequence[Any]) -> str | None:
    """`file: line N` of the deepest key of `path` if the file sets it, else None."""
    node, line = compose(file), None
    for key in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                return None
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line
    return None if line is None else f"{file}: line {line + 1}"


__all__ = ["Cell", "Study", "parent_of"]
