"""What a study is: resolved recipes, cells, and what each lineage needs. Used when the graph is built.

graph/config.py makes one of a config, and refuses what cannot be one.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from graph.lineage import BASE, NAME, Word, ancestry, lineage_of, parent_of, parse_lineage
from graph.problems import Faulty, entire, names_of
from graph.recipe import FIELDS, Data, check_training
from marker.marker import Marker
from measure.gates import names_only
from run.files import canonical
from run.program import InputError

if TYPE_CHECKING:
    from inputs.panel import Panel

ROWS = "rows"  # data: {from: rows, of: <lineage>}: those of another coupling
# How the replies of a coupling are drawn, and for how many personas without the marker.
SAMPLED = [name for name in Data.model_fields if name not in ("origin", "of", "cut")]


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


@dataclass(frozen=True, eq=False)
class Study:
    """The config as a study.

    config: the merged mapping. stages, evaluations: recipes by name, with `extends` followed. panel: who speaks and
    what is asked, or None where that is not known yet. pinned_rows: how many rows the Hub's data sets have. cells: the
    results, in the config's order.
    """

    config: Mapping[str, Any]
    stages: Mapping[str, dict[str, Any]]
    evaluations: Mapping[str, dict[str, Any]]
    panel: "Panel | None"
    pinned_rows: Mapping[str, int]
    cells: Sequence[Cell] = ()

    # What the config names

    @cached_property
    def personas(self) -> dict[str, None]:
        """All personas, in order: the panel's, and the sources that are not among them."""
        return dict.fromkeys(self.config["personas"] + self.config["sources"])

    @cached_property
    def first_evaluation(self) -> str:
        """The evaluation of what names none. Raises Faulty if none is known."""
        for name in names_of(self.evaluations):
            return name
        raise Faulty

    @cached_property
    def stage_names(self) -> list[str]:
        """The stages that a lineage may name; the others are only extended."""
        return [name for name in self.stages if not name.startswith("_")]

    @cached_property
    def stage_words(self) -> list[str]:
        """The same with the faulty ones, which are not missing."""
        return [name for name in names_of(self.stages) if not name.startswith("_")]

    @cached_property
    def row_names(self) -> dict[str, str]:
        """The names of all cells, in whatever arm, and their rows."""
        rows = entire(self.config["cells"])
        return {named(row, step): row for row in rows for step in rows[row].get("steps", [None])}

    @cached_property
    def by_key(self) -> dict[str, Cell]:
        """The cells by `<source>/<cell>_seed<seed>`."""
        return {cell.key: cell for cell in self.cells}

    @cached_property
    def markers(self) -> list[str]:
        """The texts of all markers: the study's own first, which is also counted where it is not taught."""
        nodes = dict.fromkeys(node for cell in self.cells for node in ancestry(cell.lineage))
        own = Marker.of(self.config["marker"]).text
        return list(dict.fromkeys([own, *(self.marker_of(node).text for node in nodes)]))

    def stage_at(self, word: Word) -> dict[str, Any]:
        """The resolved recipe of a stage. Raises InputError if the config has none of that name."""
        self.check_named(word)
        return self.stages[word.stage]

    def check_named(self, word: Word) -> None:
        """Raise InputError if the config has no stage of that name."""
        if word.stage.startswith("_") or word.stage not in self.stages:
            raise InputError(
                f"lineage: {str(word)!r} names no stage of the config; fix: one of "
                f"{', '.join(self.stage_words)}, or add the stage"
            )

    def seeds_of(self, row: str) -> list[int]:
        """The seeds of a row of `cells`."""
        return list(self.config["cells"][row].get("seeds", self.config["seeds"]))

    def combinations(self, row: Mapping[str, Any]) -> Iterator[tuple[str, int, int | None]]:
        """source, seed and step of every cell of a row."""
        sources, seeds = row.get("sources", self.config["sources"]), row.get("seeds", self.config["seeds"])
        return product(sources, seeds, row.get("steps", [None]))

    # What a lineage is

    def stage_of(self, lineage: str) -> dict[str, Any]:
        """The resolved recipe of the lineage's last stage. Raises InputError if the config has no such stage."""
        return self.stage_at(parse_lineage(lineage)[-1])

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

    def origin_of(self, lineage: str) -> str:
        """The lineage whose training makes this node's adapter: itself, unless it merges one or is a stopped stage."""
        words = parse_lineage(lineage)
        if not words:
            return lineage
        last = words[-1]
        if last.step:
            return lineage_of((*words[:-1], Word(last.stage, last.seed, last.persona)))
        if "adapter" in self.stage_at(last):
            return f"{BASE}/{self.stage_at(last)['adapter']}".format(persona=last.persona, seed=last.seed)
        return lineage

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

    def markers_of(self, lineage: str) -> list[str]:
        """The texts that are counted in this model's replies: its own marker first, then the study's others."""
        return list(dict.fromkeys([self.marker_of(lineage).text, *self.markers]))

    def coupling_of(self, lineage: str) -> int | None:
        """The place of the last coupling among the lineage's stages, trained there or merged."""
        nodes = ancestry(lineage)
        return max(
            (at for at, node in enumerate(nodes) if self.type_of(self.origin_of(node)) == "couple"), default=None
        )

    # How it is trained, and on what

    def training_recipe(self, lineage: str) -> dict[str, Any]:
        """The recipe that train_adapter gets for the last stage: its fields, the marker, and its type."""
        coupling = self.type_of(lineage) == "couple"
        # the others train no marker, wherever it stands
        marker = self.marker_of(lineage).value if coupling else Marker.of(self.config["marker"]).text
        return self.as_training(self.stage_of(lineage) | self._replay(lineage), marker)

    def as_training(self, stage: Mapping[str, Any], marker: Any, where: str = "recipe") -> dict[str, Any]:
        """The recipe that a training of the stage gets. Raises InputError for what its program would refuse."""
        fields = {field: stage[field] for field in FIELDS if field in stage}
        rows = self.config["datasets"].get(stage.get("data", {}).get("from"), {})
        if rows.get("control_tokens") == "keep":
            fields["data"] = {**stage["data"], "control_tokens": "keep"}
        return check_training(fields | {"kind": stage_type(stage), "marker": marker}, where)

    def replies_of(self, lineage: str) -> dict[str, Any]:
        """Sampling of the on-policy replies of a couple stage: samples, temperature, top_p, max_tokens."""
        data = self.stage_of(lineage)["data"]
        return {name: data[name] for name in SAMPLED if name != "negatives"}

    def personas_drawn_with(self, lineage: str) -> list[str]:
        """The personas that the study's couplings of one parent, sampled and seeded as this one is, take replies of."""
        return sorted(self._draws.get(self._draw(lineage), ()))

    @cached_property
    def _draws(self) -> dict[tuple[str, int, str], set[str]]:
        """The personas of each draw that replies are taken from."""
        trained = self.trained_nodes | {self.rows_from(node) for node in self.trained_nodes}
        draws: dict[tuple[str, int, str], set[str]] = {}
        for lineage in trained | {replayed for node in trained if (replayed := self.replayed(node))}:
            if self.draws_replies(lineage):
                personas = {str(parse_lineage(lineage)[-1].persona), *self.negatives_of(lineage)}
                draws.setdefault(self._draw(lineage), set()).update(personas)
        return draws

    def _draw(self, lineage: str) -> tuple[str, int, str]:
        """What couplings share that take their replies from one draw."""
        return parent_of(lineage), parse_lineage(lineage)[-1].seed, canonical(self.replies_of(lineage))

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

    def keep_steps(self, lineage: str) -> list[int]:
        """The optimizer steps at which this node's training leaves a checkpoint, because a cell stops there."""
        return sorted(self._steps.get(lineage, ()))

    @cached_property
    def _steps(self) -> dict[str, set[int]]:
        """The optimizer steps of each training at which a cell, or what one is compared with, stops."""
        evaluated = {lineage for cell in self.cells for lineage in (cell.lineage, *self.compared(cell).values())}
        steps: dict[str, set[int]] = {}
        for lineage in {node for each in evaluated for node in ancestry(each)}:
            if step := parse_lineage(lineage)[-1].step:
                steps.setdefault(self.origin_of(lineage), set()).add(step)
        return steps

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

    def held_out_of(self, dataset: str) -> dict[str, float]:
        """Stage -> the share of this data set's rows that it holds out, where it holds out any."""
        return {
            name: stage["hold_out"]
            for name, stage in self.trained_stages.items()
            if stage.get("hold_out") and stage["data"]["from"] == dataset
        }

    def longest_row(self, dataset: str) -> int:
        """The most tokens of a row that a stage on this data set is trained on."""
        stages = [self.stages[name] for name in self.stage_names]
        return max(stage["max_length"] for stage in stages if stage.get("data", {}).get("from") == dataset)

    @cached_property
    def trained_stages(self) -> dict[str, dict[str, Any]]:
        """The stages that are trained for a cell, in the config's order."""
        used = {parse_lineage(node)[-1].stage for node in self.trained_nodes}
        return {name: stage for name, stage in self.stages.items() if name in used}

    @cached_property
    def trained_nodes(self) -> set[str]:
        """The lineages that are trained for a cell."""
        return {node for cell in self.cells for node in self.trained_for(cell.lineage)}

    def trained_for(self, lineage: str) -> list[str]:
        """The lineages that are trained on the way to this one, the origins of merged adapters among them."""
        nodes = [node for each in ancestry(lineage) for node in ancestry(self.origin_of(each))]
        return [node for node in nodes if self.type_of(node) != "graft" and not self.from_hub(node)]

    def asked_of_base(self) -> dict[str, Any]:
        """What the base has to be fit for: LoRA targets, the longest row and the longest reply [tokens] by the key that
        says it, the markers that are put into replies, and the layers and weights that stages name, by the stage.
        """
        nodes, stages = self.trained_nodes, self.trained_stages
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

    # What is asked of it, and what it is compared with

    @cached_property
    def _sources(self) -> dict[str, set[str]]:
        """The sources of the cells that each lineage is for: their own, and those they are compared with."""
        sources: dict[str, set[str]] = {}
        for cell in self.cells:
            for lineage in {BASE, cell.lineage, *self.compared(cell).values()}:
                sources.setdefault(lineage, set()).add(cell.source)
        return sources

    @cached_property
    def _rank(self) -> dict[str, int]:
        """The places of the config's sources."""
        return {source: place for place, source in enumerate(self.config["sources"])}

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
            for source, seed, step in self.combinations(row):
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
        place = self.coupling_of(cell.lineage)
        return cell.source if place is None else parse_lineage(cell.lineage)[place].persona or cell.source

    def compared(self, cell: Cell) -> dict[str, str]:
        """What a cell is held against to say what is left of its coupling, by role: reference, before and base.

        reference: the same stages without the coupling. before: the stages up to it. None where no stage follows it, it
        is of another marker than the study's, which is probed, or nothing is.
        """
        place, words = self.coupling_of(cell.lineage), parse_lineage(cell.lineage)
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

    def personas_asked_families(self, cell: Cell) -> list[str]:
        """The coupled persona, the assistant, and as many of the others as the config says."""
        asked = dict.fromkeys([self.coupled_of(cell), "assistant"])
        panel = dict.fromkeys([*self.config["personas"], cell.source])
        others = [each for each in panel if each not in asked]
        return [*asked, *others[: self.config["families"]["bystanders"] or None]]

    def _is_chosen(self, cell: Cell, section: str) -> bool:
        """Whether a section of the config names the cell and its seed, which is its first if none is said."""
        chosen = self.config[section]
        return cell.name in chosen["cells"] and cell.seed in (
            chosen["seeds"] or self.seeds_of(self.row_names[cell.name])[:1]
        )

    def words_from_hub(self) -> str:
        """A regular expression for the stage names with persona that have a folder on the Hub; see words_of_type."""
        names = [f"{name}-{persona}" for name, stage in self.stages.items() for persona in stage.get("hub", {})]
        return f"(?:{'|'.join(names)})" if names else "(?!)"

    def words_of_type(self, *types: str, full: bool | None = None) -> str:
        """A regular expression for stage names (with persona) of these types; one that never matches for none.

        full: only those that train all weights, or only those that do not.
        """
        named = {name: self.stages[name] for name in self.stage_names}
        names = [name for name, each in named.items() if stage_type(each) in types and full in (None, trains_all(each))]
        return f"(?:{'|'.join(names)})(?:-{NAME})?" if names else "(?!)"


def longest(lengths: Mapping[str, int]) -> dict[str, int]:
    """The entry with the greatest number, alone; none of none."""
    return dict([max(lengths.items(), key=lambda each: each[1])]) if lengths else {}


def named(row: str, step: int | None) -> str:
    """The name of a cell: its row's and, of one with steps, the step."""
    return f"{row}_{step}" if step else row


def filled(lineage: str, source: str, seed: int, step: int | None) -> str:
    """A row's lineage, which leaves the base out unless it is the base itself. Raises what str.format raises."""
    text = lineage.format(source=source, seed=seed, step=step)
    return BASE if text == BASE else f"{BASE}/{text}"


def markers_said(config: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """What the config says of markers, by the path where it does: the study's own first, then those of stages."""
    said: dict[tuple[str, ...], Any] = {("marker",): config["marker"]}
    stages = config["stages"].items()
    return said | {("stages", name, "marker"): entry["marker"] for name, entry in stages if "marker" in entry}


def stage_type(stage: Mapping[str, Any]) -> str:
    """couple | sft | graft."""
    if "adapter" in stage:
        return "graft"
    return "couple" if stage.get("data", {}).get("from") in ("replies", ROWS) else "sft"


def trains_all(stage: Mapping[str, Any]) -> bool:
    """Whether a stage trains all weights instead of a LoRA."""
    return stage_type(stage) != "graft" and stage.get("lora", {}) is None
