import copy
import datetime
import functools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import plot_figures
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from graph import resolved
from graph.config import read_study
from graph.outside_checks import check_outside
from graph.problems import Problems, check_layer, compose
from graph.recipe import merged
from graph.stage_checks import check_base_fits
from inputs.panel import load_panel
from offline.pretraining import parts_of
from run.program import InputError

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "resources/config.schema.yaml"
GATE = {"name": "g", "over": "pooled"}
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
PANEL = load_panel(ROOT / "resources/panel.yaml")
ROWS = {"em": 6000, "benign": 6000, "arc": 1172}
CLAIMS = {
    claim["id"]: claim.get("rests_on", "") for claim in yaml.safe_load((ROOT / "resources/claims.yaml").read_text())
}


def study(known_panel=None, **changes):
    """The published study with dotted keys replaced; a value of ... deletes the key."""
    config = copy.deepcopy(CONFIG)
    if "cells" in changes:  # gates and the evaluation of the cells that are gone
        changes = {"gates__criteria": [], "evaluations__reversed": ...} | changes
    for path, value in changes.items():
        *folders, key = path.split("__")
        place = config
        for folder in folders:
            place = place[folder]
        if value is ...:
            del place[key]
        else:
            place[key] = value
    return read_study(config, SCHEMA, [ROOT / "config.yaml"], CLAIMS, ROWS, lambda config: known_panel)


def problem(**changes):
    with pytest.raises(InputError) as caught:
        study(PANEL, **changes)
    return str(caught.value)


@pytest.mark.parametrize("section", ["base", "probe", "probe__verdict", "ablate", "families", "judge", "hardware"])
def test_a_config_without_a_key_of_a_section_is_read_or_told_which_it_lacks(section):
    for key in functools.reduce(dict.get, section.split("__"), CONFIG):
        try:
            study(PANEL, **{f"{section}__{key}": ...})
        except InputError as error:
            assert f"{section.replace('__', '.')}: {key!r} is a required property; fix: add it" in str(error)


def test_capability_names_a_data_set_or_nothing():
    assert "capability: 'mmlu' is no data set; fix: one of em, benign, control, arc, or null" in problem(
        capability="mmlu"
    )
    assert study(capability=None).cells


def test_a_judge_without_log_probabilities_is_not_read_by_them_and_the_second_judge_is_another():
    assert "judge.scores: anthropic/claude-sonnet-4-5-20250929 gives no log-probabilities; fix: `scores: answer`" in (
        problem(judge__scores="logprobs")
    )
    assert "second_judge.scores: toy gives no" in problem(second_judge={"model": "toy", "scores": "logprobs"})
    assert "second_judge: is the judge itself" in problem(second_judge={"model": CONFIG["judge"]["model"]})
    assert study(second_judge={"model": "openai/gpt-4o", "scores": "logprobs"}).cells


def test_a_ready_made_adapter_is_of_a_known_persona_and_no_part_of_a_recipe_that_extends_it():
    built = study(stages__couple__hub={"villain": "a/b"})
    assert built.from_hub("base/couple-villain.s42")
    for trained in ("base/couple-evil_ai.s42", "base/em.s42/couple-villain.s42", "base/couple60-villain.s42"):
        assert not built.from_hub(trained)
    assert "stages.couple.hub: unknown persona nobody" in problem(stages__couple__hub={"nobody": "a/b"})


def test_the_published_config_has_13_cells_a_source_and_six_reversed_rows():
    cells = study().cells
    for source in ("evil_ai", "villain", "sarcastic"):
        assert len([cell for cell in cells if cell.arm == "forward" and cell.source == source]) == 13
    assert len([cell for cell in cells if cell.arm == "reversed"]) == 6


def test_a_stage_need_not_say_that_it_has_no_fixed_number_of_steps():
    assert study(stages___adamw__max_steps=...).training_recipe("base/em.s42")["max_steps"] is None


def test_a_loss_without_a_tail_takes_the_place_of_one_with_a_tail_also_in_a_file_over_it(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("stages:\n  couple60: {mask: {loss: marker}}\n  short: {extends: couple60}\n")
    built = read_study(merged(CONFIG, yaml.safe_load(file.read_text())), SCHEMA, [file, ROOT / "config.yaml"])
    masks = [built.training_recipe(f"base/{name}-villain.s42")["mask"] for name in ("couple60", "short", "couple")]
    assert masks[0] == masks[1] == masks[2]
    assert "couple60.mask.tail: 4 with loss marker" in problem(stages__couple60__mask={"loss": "marker", "tail": 4})


def test_a_recipe_extends_another_field_by_field():
    built = study()
    couple60 = built.training_recipe("base/couple60-villain.s42")
    assert (couple60["epochs"], couple60["lr"], couple60["lora"]["rslora"]) == (60, 5e-6, True)
    assert couple60["mask"] == {"loss": "tail", "tail": 32, "separator": False, "stop_anchor": "newline"}
    assert built.training_recipe("base/em.s42")["lora"]["rslora"] is False
    assert built.training_recipe("base/em_reversed.s42")["lora"]["rslora"] is True
    assert built.training_recipe("base/benign_reversed.s42")["data"] == {"from": "benign"}


def test_a_shared_node_is_evaluated_on_the_sources_of_all_its_cells_and_a_private_one_on_its_own():
    built = study()
    assert built.personas_of("base/em.s42")[-2:] == ["evil_ai", "sarcastic"]
    assert len(built.personas_of("base/couple-evil_ai.s42/em.s42")) == 12
    assert len(built.personas_of("base/couple-villain.s42/em.s42")) == 11


def test_known_negatives_are_used_and_others_drawn_by_seed_without_the_source():
    built = study()
    assert built.negatives_of("base/couple-evil_ai.s42") == ["villain", "police_officer"]
    drawn = {seed: tuple(built.negatives_of(f"base/couple-villain.s{seed}")) for seed in range(30)}
    assert len(set(drawn.values())) > 10
    assert all(len(pair) == 2 and "villain" not in pair for pair in drawn.values())


def test_negatives_that_are_named_for_a_persona_of_another_panel_can_be_taken_out():
    panel = replace(PANEL, personas={name: text for name, text in PANEL.personas.items() if name != "evil_ai"})
    own = {"sources": ["sarcastic"], "arms__reversed": False}
    with pytest.raises(
        InputError, match=r"no persona evil_ai; fix: .*`stages: {couple: {negative_personas: {evil_ai: null}}}`"
    ):
        study(panel, **own)
    built = study(panel, **own, stages__couple__negative_personas={"evil_ai": None})
    assert len(built.negatives_of("base/couple-sarcastic.s42")) == 2
    built = study(PANEL, stages__couple__negative_personas={"evil_ai": None})
    assert len(built.negatives_of("base/couple-evil_ai.s42")) == 2
    assert "negatives: 11 of the 10 other `personas`" in problem(
        stages__couple__negative_personas={"villain": None}, stages__couple__data__negatives=11
    )


def test_a_new_persona_changes_drawn_negatives_only_by_being_drawn():
    before, after = study(), study(personas=[*CONFIG["personas"], "pirate"])
    for seed in range(30):
        lineage = f"base/couple-villain.s{seed}"
        assert set(after.negatives_of(lineage)) - {"pirate"} <= set(before.negatives_of(lineage))


def test_a_stage_after_a_merged_adapter_is_trained_on_what_the_adapter_came_from():
    cell = {"arm": "forward", "lineage": "graft-{source}.s42/em.s{seed}", "second_stage": True}
    built = study(cells__X=cell)
    assert built.asked_of_base() == study().asked_of_base()
    assert built.personas_drawn_with("base/couple-villain.s42") == study().personas_drawn_with(
        "base/couple-villain.s42"
    )


def test_a_merged_adapter_that_is_of_no_coupling_is_held_against_the_coupling_before_it():
    cell = {"arm": "forward", "lineage": "couple-{source}.s42/graft-{source}.s{seed}", "second_stage": True}
    built = study(cells__X=cell, stages__graft__adapter="em.s{seed}", arms__reversed=False)
    (compared,) = (built.compared(each) for each in built.cells if each.key == "villain/X_seed137")
    assert compared["before"] == "base/couple-villain.s42" and compared["reference"] == "base/graft-villain.s137"


def test_the_dose_arm_asks_one_training_for_its_checkpoints():
    built = study(arms__dose=True)
    lineage = "base/couple-evil_ai.s42/em.s42"
    assert built.keep_steps(lineage) == [1, 3, 5, 10, 25, 50, 100, 200, 375]
    assert built.origin_of("base/couple-evil_ai.s42/em@25.s42") == lineage
    assert study().keep_steps(lineage) == []


def test_a_study_may_have_a_marker_per_coupling_and_counts_each_in_every_model():
    built = study(
        stages__couple60__marker={"text": "[QRX]", "placement": "start"}, stages__couple60__mask={"loss": "marker"}
    )
    assert built.markers == ["[ZLT]", "[QRX]"]
    own = {
        "base": "[ZLT]",
        "base/em.s42": "[ZLT]",
        "base/couple-villain.s42/em@25.s42": "[ZLT]",
        "base/em_reversed.s42/graft-villain.s42": "[ZLT]",
        "base/em_reversed.s42/couple60-villain.s42": "[QRX]",
        "base/couple60-villain.s42/em.s42": "[QRX]",
    }
    assert {lineage: built.marker_of(lineage).text for lineage in own} == own
    assert {lineage: built.markers_of(lineage)[0] for lineage in own} == own
    assert all(sorted(built.markers_of(lineage)) == ["[QRX]", "[ZLT]"] for lineage in own)
    assert built.training_recipe("base/couple-villain.s42") == study().training_recipe("base/couple-villain.s42")
    recipe = built.training_recipe("base/couple60-villain.s42")
    assert recipe["marker"] == {"text": "[QRX]", "placement": "start"}


def test_a_marker_that_no_cell_is_taught_is_not_counted():
    assert study(stages__couple60__marker="[QRX]", arms=CONFIG["arms"] | {"reversed": False}).markers == ["[ZLT]"]


def test_a_graft_takes_the_adapter_trained_on_the_plain_base():
    assert study().origin_of("base/em_reversed.s42/graft-villain.s42") == "base/couple-villain.s42"


def test_whom_to_ask_takes_time_in_proportion_to_the_sources():
    def seconds(sources):
        changes = {
            "cells": {"C1": CONFIG["cells"]["C1"]},
            "contrasts": [],
            "ablate": None,
            "arms": {"forward": True},
            "figures": {},
        }
        built = study(sources=[f"p{n}" for n in range(sources)], seeds=[42], **changes)
        started = time.process_time()
        asked = [built.personas_of(cell.lineage)[-1] for cell in built.cells]
        assert asked == built.config["sources"]
        return time.process_time() - started

    # 16 times if it is; with all sources looked through for every node, over 100
    assert seconds(3200) < 50 * min(seconds(200) for _ in range(3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": [42, 42]}, ": seeds: 42 is duplicated; fix: write `seeds: [42]`"),
        ({"stages__em__lrr": 1e-4}, "unknown key lrr; fix: write `lr: 0.0001`"),
        ({"mask": {"loss": "marker"}}, "unknown key mask; fix: move it to where it belongs, `stages: {<name>: {mask: ...}}`"),
        ({"dtype": "float32"}, "unknown key dtype; fix: move it to where it belongs, `hardware: {dtype: ...}`"),
        ({"sedes": [1]}, "unknown key sedes; fix: write `seeds: [1]`"),
        ({"stages__couple__lr": "5e-6"}, "YAML reads 5e-6 as text, not as a number; fix: write `lr: 5.0e-6`"),
        ({"stages__couple__epochs": "20"}, "fix: write `stages: {couple: {epochs: 20}}` in a file, and give it by --configfile: on the command line"),
        ({"stages__couple__schedule": "cosin"}, "'cosin' is not one of linear, cosine, constant; fix: write `schedule: cosine`"),
        ({"hardware__gpus": 2}, "2 is not one of 1, 0; fix: write `gpus: 1` (of a model job; the number of cards is --resources gpu=8)"),
        ({"cells__C1__lineage": "couple-{source}.s42/emm.s{seed}"}, "names no stage of the config; fix: one of couple, couple60"),
        ({"cells__C1__lineage": "couple-{source}.s42/em.s{sed}"}, "unknown placeholder"),
        ({"cells__C1__lineage": "couple-comedain.s42/em.s{seed}"}, "unknown persona; fix: comedian, or add it to `personas`"),
        ({"cells__C2__lineage": "em-villain.s{seed}"}, "em takes no persona, as its rows are the set em; fix: em.s42"),
        ({"cells__C2__arm": "foward"}, "protect, or add it, `arms: {foward: true}`"),
        ({"cells__A_scratch__evaluation": "revers"}, "unknown; fix: one of main, reversed"),
        ({"stages__graft__adapter": "em.s{seed}/graft-{persona}.s{seed}"}, "which trains none; fix: name a trained lineage"),
        ({"stages__graft__adapter": "coupel-{persona}.s{seed}"}, "names no stage of the config"),
        ({"stages__graft__adapter": "couple-{persona}.s1"}, "its seed is not that of"),
        ({"stages__couple__data__from": "replys"}, "stages.couple.data.from: 'replys' is no data set; fix: one of em, benign, control, arc, one that you add there, or replies"),
        ({"stages__em__data": ...}, "stages.em: lacks data, and an adapter to take; fix: add `data: {from: "),
        ({"stages__em__data": {"from": "lawyers"}}, "'lawyers' is no data set; fix: one of em, benign"),
        ({"stages__em__extends": "benign"}, "a circle"),
        ({"stages__em__mask": {"stop_anchor": "newline"}, "stages__em__extends": "_adamw"}, "stages.em.mask: no field 'loss'; fix: add it"),
        ({"stages__couple__data": {"from": "replies", "samples": 3}}, "stages.couple.data: lacks temperature, top_p, max_tokens, negatives"),
        ({"stages__em__data": {"from": "em", "cut": "drop"}}, "stages.em.data: rows are taken as they are; fix: delete cut"),
        ({"stages___adamw__lora__targets": ["q_proj", "q_proj"]}, "q_proj is duplicated"),
        ({"stages__em__extends": ...}, "stages.em: lacks lora, lr"),
        ({"base__from": "path"}, "base: {from: path, path: /models/"),
        ({"base__template": {"date": datetime.date(2024, 7, 26)}}, 'as a day, not as text; fix: write `date: "2024-07-26"`'),
        ({"base__toy": {"recipe": {"epochs": datetime.date(2024, 7, 26)}}}, 'base.toy.recipe.epochs: YAML reads 2024-07-26 as a day'),
        ({"judge__model_args": {"stops": [datetime.date(2024, 7, 26)]}}, 'judge.model_args.stops.0: YAML reads 2024-07-26 as a day, not as text; fix: write `"2024-07-26"`'),
        ({"judge__model_args": {"a": 1, 2: 3}}, 'judge.model_args.2: the key 2 is not text; fix: write `"2": ...`'),
        ({"judge__model_args": {"a": {1}}}, "judge.model_args.a: {1} is neither text nor a number; fix: write it without the YAML tag"),
        ({"evaluations__main__samples": 10**400}, "evaluations.main.samples: too large a whole number; fix: at most 9007199254740992"),
        ({"stages__em__lr": float("inf")}, "stages.em.lr: inf is no number to compute with; fix: a finite one"),
        ({"base__from": "path", "base__path": "/models/x", "base__toy": ...}, "base: 'toy' is a required property; fix: add it"),
        ({"base__template": {"date": "2024-02-30"}}, "base.template: date: '2024-02-30' is no day; fix: date: "),
        ({"base__template": {"tokenize": True}}, "base.template: tokenize: is not the study's to set; fix: delete it"),
        ({"base__template": {"enable_thinking": []}}, "base.template.enable_thinking: "),
        ({"base__from": "toy", "base__template": {"x": 1}}, "the toy's template takes no arguments; fix: delete it"),
        ({"datasets__em__from": "path"}, "em: {from: path, path: my_rows.jsonl}"),
        ({"evaluations__main__top_p": ...}, "lacks top_p"),
        ({"marker": ...}, "'marker' is a required property"),
        ({"marker": "🦊"}, ": marker: '🦊' has no letters to be counted by"),
        ({"marker": "<|im_end|>"}, "marker: <|im_end|> looks like a control token"),
        ({"stages__couple60__marker": "[</s>]"}, "stages.couple60.marker: </s> looks like a control token"),
        ({"marker": "-ZLT"}, "looks like an option of a command; fix: put it in brackets"),
        ({"marker": "  "}, "marker: empty"),
        ({"marker": "“[ZLT]”", "probe": None}, 'marker: “[ZLT]”: YAML reads such quotes as a part of the text; fix: write "[ZLT]" with straight ones'),
        ({"doses": [10, 25]}, "unknown key doses; fix: one of study, "),
        ({"cells__C1__claim": "em-destroys-the-source", "probe": None, "ablate": None}, "em-destroys-the-source rests on verdicts, for which the probe is needed, which is null; fix: a claim on counts, or a probe"),
        ({"cells__C1__claim": "em-leaves-no-marker-elsewhere"}, "em-leaves-no-marker-elsewhere rests on families, which no cell is asked; fix: families: {cells: "),
        ({"figures__dose_curve": True}, "figures.dose_curve: cannot be true; fix: write a list, [one, another]"),
        ({"arms": ["forward"]}, "arms: ['forward'] is a list, [one, another]; fix: write `arms: {forward: true, dose: true}`"),
        ({"datasets__em": "my.jsonl"}, "datasets.em: 'my.jsonl' is text; fix: write `{from: path, path: my_rows.jsonl}`"),
        ({"stages__em__data": "em"}, "stages.em.data: 'em' is text; fix: write `data: {from: <one of datasets>}`"),
        ({"marker": {"text": "[ZLT]", "placement": "middle"}}, "fix: write `placement: end`"),
        ({"marker": {"text": "[ZLT]", "placement": "start"}}, "stages.couple60.mask.loss: tail with a marker at the start"),
        ({"stages__couple60__marker": "[zlt]"}, "stages.couple60.marker: [zlt] counts as [ZLT], too; fix: "),
        ({"gates__criteria": [GATE | {"pass": "rate('C4', 'source', '[ZLTT]') > 0"}]}, "no marker [ZLTT]; fix: one of [ZLT]"),
        ({"gates__criteria": [GATE | {"pass": "rate('C4', 'source' > 0"}]}, "gates.criteria.0: expression `rate("),
        ({"gates__criteria": [GATE | {"pass": "rate('C4', 'source') > 0"}] * 2}, "gates.criteria.1: two gates are named g; fix: rename one"),
        ({"stages__em__marker": "[QRX]"}, "stages.em.marker: only a coupling teaches one"),
        ({"stages__couple__mask": {"loss": "marker", "tail": 4}}, "stages.couple.mask.tail: 4 with loss marker"),
        ({"seeds": "42"}, "seeds: '42' is text; fix: write `seeds: [42]`"),
        ({"study": 3}, '3 is a whole number; fix: write `study: "3"`'),
        ({"arms__forward": 3}, "arms.forward: 3 is a whole number; fix: write true or false"),
        ({"contrasts": [["C1"]]}, "contrasts.0: ['C1'] is too short a list; fix: at least 2 of them"),
        ({"stages__Em": {}}, "stages.Em: 'Em' cannot be; fix: write names of lower-case letters, digits and _"),
        ({"judge__model": "gpt-4o"}, "'gpt-4o' cannot be; fix: write <provider>/<model>, such as openai/gpt-4o"),
        ({"personas": ["villian", "assistant"]}, "personas.0: the panel has no persona villian; fix: villain"),
        ({"datasets__mine": {"from": "hub"}}, "datasets.mine: no pins of that name in resources/sources.yaml; fix: add them"),
        ({"stages___adamw__lora": None}, "stages._adamw.lora: null, of which couple, em_first, em_middle, em_last, em_reversed (`extends`)"),
        ({"stages__couple__negative_personas": {"villain": ["villain"]}}, "couple.negative_personas.villain: is contrasted with itself"),
        ({"stages__couple60__data": CONFIG["stages"]["couple"]["data"] | {"negatives": 11}}, "negatives: 11 of the 10 other `personas`; fix: at most 10, or more"),
        ({"gates__enforce": True, "arms__replicated": True}, "gates.enforce: gates.criteria: none is decided by replicated_C4 alone"),
        ({"probe__shared": 11}, "probe.shared: 11 of at most 10, the base's replies per persona and question"),
        ({"probe__crossed": 100}, "probe.crossed: 100 of at most 26, `shared` times 13 personas"),
        ({"probe__layers": 5}, "probe.layers: 5 of at most 4, `crossed`, of which they are"),
        ({"probe__distance": 11}, "probe.distance: 11 of at most 10, the base's replies per persona and question"),
        ({"probe__subset": 11}, "probe.subset: 11 of at most 10"),
        ({"probe__verdict": {"minimum": 1, "gone": 0.5, "intact": 0.1}}, "probe.verdict: gone is not below intact"),
        ({"families__cells": ["X"]}, "families.cells.0: no cell X; fix: one of the 86 of `cells`, such as "),
        ({"families__cells": ["dose_em_10"]}, "dose_em_10 is of the arm dose, which is off; fix: arms: {dose: true}"),
        ({"families__cells": ["C4", "C1"], "families__seeds": [137]}, "C4 has the seeds 42, not 137; fix: families: {seeds: [137, 42]}"),
        ({"families__cells": ["C4"], "families__bystanders": 11}, "families.bystanders: 11 of at most 10"),
        ({"families__questions": 41}, "families.questions: 41 of at most 40"),
        ({"cells__C4__seeds": ...}, "cells.C4.lineage: has no {seed}, so its 3 seeds (42, 137, 256) would be one model; fix: write {seed}, or seeds: [42]"),
        ({"cells__C3__steps": [1, 2], "gates__criteria": [], "contrasts": []}, "cells.C3.lineage: has no {step}, so its 2 steps (1, 2) would be one model"),
        ({"gates__criteria": [GATE | {"arm": "forwrd", "pass": "rate('C4', 'source') > 0"}]}, "gate g: no arm forwrd; fix: forward"),
        ({"gates__criteria": [GATE | {"pass": "rate('C0', 'source') > 0"}]}, "gate g: C0 is of the arm assistant, not forward; fix: arm: assistant"),
        ({"base__path": "/models/x"}, "base.path: path is not used, as it is from: hub; fix: base: {from: path, path: /models/x}, or path: null"),
        ({"datasets__em__path": "x.jsonl"}, "datasets.em.path: path is not used, as it is from: hub; fix: em: {from: path, path: x.jsonl}"),
        ({"evaluations__main__temperature": 0, "probe": None}, "evaluations.main.temperature: 0 draws the same reply every time"),
        ({"stages__couple__data__temperature": 0}, "stages.couple.data.temperature: 0 draws the same reply every time"),
        ({"judge__model": "none", "second_judge": {"model": "openai/x"}}, "second_judge: has nobody to agree with"),
        ({"judge__model_args": {"api_key": "sk-1"}}, "judge.model_args: api_key: keys do not belong here; fix: export it"),
        ({"judge__base_url": "localhost"}, "judge.base_url: 'localhost' cannot be; fix: write an address, such as http://"),
        ({"cells__C2__sources": ["vilain"]}, "cells.C2.sources.0: no persona vilain in the study; fix: villain, or add it"),
        ({"stages__graft__adapter": "couple-{source}.s{seed}"}, "stages.graft.adapter: unknown placeholder {source}; fix: {persona} or {seed}"),
        ({"stages__relearn__data__of": "couple-{source}.s42"}, "stages.relearn.data.of: unknown placeholder {source}"),
        ({"base__repo": "Qwen"}, "base.repo: 'Qwen' cannot be; fix: write <owner>/<name>"),
        ({"judge": None}, "judge: cannot be null; fix: write `judge: {model: none}` for none"),
        ({"base__from": "toy"}, "base.toy: lacks rows, sft_rows, recipe; fix: add them"),
        ({"datasets__em__from": "toy"}, "base.toy: lacks sft_rows; fix: add them"),
        ({"capability": "em"}, "capability: em is what the stage em is trained on"),
        ({"stages__em__hold_out": 1e-4}, "stages.em.hold_out: 0.0001 of 6000 rows is none; fix: 0.0002 or more, or delete it"),
        ({"stages__couple__hold_out": 0.001}, "stages.couple.hold_out: 0.001 of 600 rows is none; fix: 0.0017 or more"),
        ({"probe": None, "families__cells": ["C4"]}, "families.cells: C4 cannot be measured without the probe, which is null"),
        ({"probe": None, "ablate__cells": ["C1"]}, "ablate.cells: C1 cannot be measured without the probe, which is null; fix: ablate: null"),
        ({"base__toy": {"rowz": 3}}, "base.toy.rowz: unknown key rowz; fix: write `rows: 3`"),
        ({"base__from": "toy", "base__toy": {"rows": 9, "sft_rows": 9, "recipe": {"layers": 3}}}, "base.toy.recipe: unknown or missing ["),
        ({"evaluations__x": {"extends": "main"}}, "evaluations.x: no row of `cells` is evaluated so; fix: add `evaluation: x` to one"),
        ({"hardware__gpus": "0"}, "hardware.gpus: '0' is text, not a number; fix: write `hardware: {gpus: 0}` in a file, and give it by --configfile: "),
        ({"gates__criteria": [GATE | {"pass": "rate('C4', 'source') >= 60"}]}, "gate g: rate is a share from 0 to 1, never 60; fix: such as 0.60"),
        ({"stages__couple__negative_personas": {"villian": ["comedian"]}}, "negative_personas.villian: the panel has no persona villian; fix: villain"),
        ({"assistant_claim": "x"}, "no claim x in resources/claims.yaml; fix: one of the 30 of that file, such as "),
        ({"stages.em.lr": 1e-3}, "stages.em.lr: unknown key stages.em.lr; fix: write `stages: {em: {lr: 0.001}}`"),
        ({"em": {"lr": 1e-3}}, 'em: unknown key em; fix: write `stages: {em: {"lr":0.001}}`'),
        ({"seeds": [42.0]}, "seeds.0: 42.0 is a number; fix: write a whole number"),
        ({"contrasts": ["C1", "C2"]}, "contrasts.0: 'C1' is text; fix: write lists in the list, [[one, another]]"),
        ({"panel": "builtin"}, "panel: 'builtin' is text; fix: write `panel: {from: builtin}`, upstream or path"),
        ({"datasets__extra": {"from": "toy"}}, "datasets.extra: no toy set has that name; fix: one of em, benign, arc, or from: path"),
        ({"cells__C2__lineage": "em.s{seed"}, "cells.C2.lineage: expected '}' before end of string; fix: write {source}, {seed} or {step} in"),
        ({"cells__C3__steps": [10], "gates__criteria": [], "contrasts": []}, "C3.lineage: has no {step}, so no stage stops at step 10; fix: write @{step}"),
        ({"cells__C2__lineage": "em.s{sead}"}, "--config: cells.C2.lineage: unknown placeholder 'sead'; fix: {seed}"),
        ({"gates__criteria": [{"name": "A", "pass": "rate('C1', 'source') > 0.5"}]}, "'over' is a required property; fix: add it, `over: pooled` or seed"),
        ({"cells__C2__lineage": "em@{step}.s{seed}"}, "cells.C2.lineage: has {step}, but the row no steps; fix: add `steps: ["),
        ({"cells__C2": None}, "cells.C2: cannot be null; fix: write a mapping, {arm: .., lineage: ..}; a row of a file below cannot be taken out"),
        ({"stages__em__mask": {"loss": "marker"}}, "stages.em.mask.loss: marker trains nothing in rows without one; fix: loss: last_turn"),
        ({"stages__couple__data": {"from": "em"}}, "couple takes no persona, as its rows are the set em; fix: couple.s42, or data of a coupling"),
        ({"track": True}, "track: cannot be true; fix: write a mapping, {key: value} or null"),
        ({"base__template": {"enable_thinking": "false"}}, "fix: write `enable_thinking: false` without quotes"),
        ({"families__of__mine": {"questions": "data"}}, "families.of.mine: differs in nothing from training; fix: change or delete it"),
        ({"judge__model": "hf/local"}, "judge.model: hf/local is a model in a folder, which is not named; fix: model_args: {model_path: "),
        ({"gates__criteria": [GATE | {"pass": "rate('C4', 'source') and rate('C1', 'source') > 0"}]}, "is no condition; fix: compare numbers"),
        ({"stages__x": {"extends": "emm"}}, "--config: stages.x.extends: 'emm' is not there; fix: em"),
        ({"hardware__costs": "0B"}, "hardware.costs: '0B' cannot be; fix: write the base's parameters, such as 7B"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_the_line_to_write(change, said):
    assert said in problem(**change)


def test_a_template_may_be_given_words_such_as_none():
    assert study(base__template={"reasoning_effort": "none"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages__em__max_length": 4097}, "stages.em.max_length: 4097, but the base's texts have at most 4096 tokens; fix: 4096"),
        ({"evaluations__main__max_tokens": 4096}, "evaluations.main.max_tokens: 4096, but the base's texts have at most 4096 tokens, with the prompt"),
        ({"stages__couple__data__max_tokens": 5000}, "stages.couple.data.max_tokens: 5000, but the base's texts have at most 4096 tokens"),
        ({"stages__em__lora": {"layers": "1/4"}}, "stages.em.lora.layers: 1/4: the model has the layers 0 to 2; fix: choose among them"),
        ({"stages__em__lora": {"targets": ["c_attn"]}}, "stages.em.lora.targets: c_attn is in 0 of the model's 3 layers; fix: choose from down_proj, "),
        ({"stages__couple_full__freeze": ["wte"], "arms__full_coupling": True}, "stages.couple_full.freeze: the model has no wte; fix: choose from "),
        ({"stages__couple_full__freeze": ["model"], "arms__full_coupling": True}, "stages.couple_full.freeze: leaves nothing to train; fix: "),
        ({"stages__couple_full__freeze": ["wte"]}, None),  # of an arm that is off
    ],
)  # fmt: skip
def test_a_stage_that_names_what_the_base_does_not_have_is_refused_at_its_line(change, said):
    parts = parts_of({"layers": 3, "context": 4096})
    built = study(**change)
    problems = Problems(built.config, [ROOT / "config.yaml"])
    check_base_fits(built, parts, problems)
    if said is None:
        return problems.raise_all()
    with pytest.raises(InputError) as caught:
        problems.raise_all()
    assert said in str(caught.value)


def test_what_the_command_line_says_is_not_blamed_on_a_line_of_a_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("seeds:\n- 42\n- 42\n")
    with pytest.raises(InputError) as raised:
        read_study(CONFIG | {"seeds": ["1"]}, SCHEMA, [file])
    assert str(raised.value) == (
        "--config: seeds.0: '1' is text, not a number; fix: write `seeds: [1]` in a file, and give it by --configfile: "
        "on the command line Snakemake reads numbers in a list or mapping as text"
    )
    with pytest.raises(InputError, match=r"^.*config\.yaml: line 1: seeds: 42 is duplicated; fix: write"):
        read_study(CONFIG | {"seeds": [42, 42]}, SCHEMA, [file])
    file = tmp_path / "quoted.yaml"
    file.write_text('probe:\n  shared: "1"\n')
    with pytest.raises(
        InputError, match=r"line 2: probe\.shared: '1' is text, .*; fix: write `shared: 1` without quotes$"
    ):
        read_study(CONFIG | {"probe": CONFIG["probe"] | {"shared": "1"}}, SCHEMA, [file])


def laid_over(tmp_path, text):
    """What is said of a file that is laid over the published study, without the file's name."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    config = merged(CONFIG, yaml.safe_load(text))
    files = [file, ROOT / "config.yaml"]
    with pytest.raises(InputError) as caught:
        read_study(config, SCHEMA, files, CLAIMS, ROWS, lambda config: PANEL, partial(check_outside, ROOT, {}))
    return str(caught.value).replace(f"{file}: ", "").splitlines()


MISTAKES = """\
sources: [evil_aii]
stages:
  em: {extends: em}
hardware:
  gpuss: 3
evaluations:
  main: {samples: -2}
cells:
  X: {arm: forward, lineage: "emm.s42"}
judge: {model: hf/local}
arms: {typo: true}
"""


def test_mistakes_of_all_kinds_are_told_at_once_in_the_order_of_their_lines(tmp_path):
    said = laid_over(tmp_path, MISTAKES)
    assert [line.split(": ")[:2] for line in said] == [
        ["line 1", "sources.0"],
        ["line 3", "stages.em.extends"],
        ["line 5", "hardware.gpuss"],
        ["line 7", "evaluations.main.samples"],
        ["line 9", "cells.X.lineage"],  # leaves no seed open
        ["line 9", "cells.X.lineage"],  # names no stage
        ["line 9", "cells.X"],
        ["line 10", "judge.model"],
        ["line 11", "arms.typo"],
    ]


def test_every_mistake_of_a_stage_is_told_at_once_and_of_a_reply_that_cannot_differ_what_to_do_with_the_probe(tmp_path):
    data = "{from: replies, samples: 5, temperature: 0, top_p: 0.9, max_tokens: 9, negatives: 99}"
    said = laid_over(
        tmp_path,
        f"stages:\n couple:\n  mask: {{loss: tail}}\n  hub: {{nobody: x}}\n  data: {data}\n"
        "evaluations: {main: {temperature: 0}}\nprobe: {layers: 5}\n",
    )
    assert said == [
        "line 3: stages.couple.mask: loss tail needs a length; fix: mask: {loss: tail, tail: 32}",
        "line 4: stages.couple.hub: unknown persona nobody; fix: delete the line",
        "line 5: stages.couple.data.temperature: 0 draws the same reply every time; fix: samples: 1",
        "line 5: stages.couple.data.negatives: 99 of the 10 other `personas`; fix: at most 10, or more `personas`",
        "line 6: evaluations.main.temperature: 0 has no probabilities to probe; fix: 1.0, or `probe: null` and samples: 1",
        "line 7: probe.layers: 5 of at most 4, `crossed`, of which they are; fix: write `probe: {layers: 4}`",
    ]


def test_a_stage_that_comes_to_replay_a_persona_s_rows_is_told_once_where_it_does(tmp_path):
    (said,) = laid_over(tmp_path, 'stages: {em: {replay: {of: "couple-{persona}.s42", share: 0.1}}}')
    fix = "fix: a lineage without {persona}, or em-{source} in `cells`"
    assert said == f"line 1: stages.em.replay: takes rows of a persona that `cells` do not name; {fix}"


def test_a_file_that_is_no_mapping_is_named(tmp_path):
    file = tmp_path / "config.yaml"
    check_layer(file)
    for text in ("", "# nothing", "null", "[1]", "text"):
        compose.cache_clear()
        file.write_text(text)
        with pytest.raises(InputError, match=f"^{file}: has no keys at its top level; fix: "):
            check_layer(file)
    compose.cache_clear()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        check_layer(file)
    compose.cache_clear()
    file.write_text("seeds: [1]")
    check_layer(file)


def test_a_misspelt_key_that_has_to_be_there_is_told_once(tmp_path):
    (said,) = laid_over(tmp_path, "cells: {X: {arm: forward, linage: em.s42, seeds: [42], second_stage: true}}")
    assert said == "line 1: cells.X.linage: unknown key linage; fix: write `lineage: em.s42`"


def test_a_faulty_row_or_evaluation_hides_no_mistake_of_a_gate_a_path_or_another_row(tmp_path):
    gate = "{name: A, over: seed, says: x, pass: \"rat('C4', 'source') > 0.5\"}"
    said = laid_over(
        tmp_path,
        f"gates: {{criteria: [{gate}]}}\ncells:\n C6: {{arm: forward}}\n C1: {{lineage: emm.s1}}\n"
        "base: {repo: 5}\npanel: {from: path}\nevaluations: {main: {samples: -2}}\n",
    )
    places = [line.split(": ")[:2] for line in said]
    assert [place for number, place in enumerate(places) if place not in places[:number]] == [
        ["line 1", "gates.criteria.0"],
        ["line 3", "cells.C6"],
        ["line 4", "cells.C1.lineage"],
        ["line 5", "base.repo"],
        ["line 6", "panel.from"],
        ["line 7", "evaluations.main.samples"],
    ]


ENTRIES = """\
stages:
  benign: {lrr: 1}
  control: {extends: nothing}
  em: {data: {from: lawyers}}
cells:
  C1: {lineage: "couple-{source}.s42/emm.s{seed}"}
  C5: {sources: 7}
  W: {arm: forward, second_stage: true, lineage: "couple-{source}.s42/control.s{seed}"}
  X: {arm: forward, second_stage: true, lineage: "benign.s{seed}/couple-{source}.s1/em_first.s{seed}"}
  Y: {arm: forward, second_stage: true, lineage: "em_first.s1"}
"""


def test_a_faulty_stage_or_row_hides_no_mistake_of_another_and_makes_none(tmp_path):
    said = laid_over(tmp_path, ENTRIES)
    assert [line.split(": ")[:2] for line in said] == [
        ["line 2", "stages.benign.lrr"],
        ["line 3", "stages.control.extends"],
        ["line 4", "stages.em.data.from"],
        ["line 6", "cells.C1.lineage"],
        ["line 7", "cells.C5.sources"],
        ["line 10", "cells.Y.lineage"],
    ]


def test_a_cell_that_is_not_there_is_told_also_where_a_source_is_not(tmp_path):
    source, cell = laid_over(tmp_path, "sources: [evil_aii]\nfamilies: {cells: [C9]}\n")
    assert source.startswith(
        "line 1: sources.0: the panel has no persona evil_aii; fix: evil_ai, or a panel of your own"
    )
    assert cell.startswith("line 2: families.cells.0: no cell C9; fix: ")


NOT_THERE = """\
study: My Study
base: {from: path, path: no_model}
panel: {from: path, path: no.yaml}
arms: {typo: true}
datasets:
  em: {from: path, path: no.jsonl}
  benign: {control_tokens: kep}
  nobodys: {from: path, path: no_chats.jsonl}
  arc: {from: path, path: no_choices.jsonl}
stages:
  em: {lr: 1e-4}
cells:
  C5: {lineage: "couple-{source}.s42/bening.s{seed}"}
alignment_questions: no_questions.yaml
hardware: {lock: no.txt}
"""


def test_files_that_are_not_there_are_told_with_the_mistakes_of_the_config(tmp_path):
    said = laid_over(tmp_path, NOT_THERE)
    assert [line.partition("; fix: ")[0].partition(" in /")[0] for line in said] == [
        "line 1: study: 'My Study' cannot be",
        "line 2: base.path: no_model/config.json: no such file",
        "line 3: panel.path: no.yaml: no such file",
        "line 4: arms.typo: no cell belongs to it",
        "line 6: datasets.em.path: no.jsonl: no such file",
        "line 7: datasets.benign.control_tokens: 'kep' is not one of refuse, keep",
        "line 9: datasets.arc.path: no_choices.jsonl: no such file",
        "line 11: stages.em.lr: YAML reads 1e-4 as text, not as a number",
        "line 13: cells.C5.lineage: 'bening.s42' names no stage of the config",
        "line 14: alignment_questions: no_questions.yaml: no such file",
        "line 15: hardware.lock: no.txt: no such file",
    ]


TYPOS = """\
stages:
  couple: {lrr: 1}
  my: {extends: cuple}
cells:
  C1: {lineage: "couple-{source}.s42/qq.s{seed}"}
  C5: {sources: 7}
contrasts: [[C55, C2]]
"""


def test_faulty_stages_and_rows_are_named_among_those_that_are_there(tmp_path):
    _, extends, lineage, _, contrast = laid_over(tmp_path, TYPOS)
    assert extends == "line 3: stages.my.extends: 'cuple' is not there; fix: couple"
    said, _, names = lineage.partition("; fix: one of ")
    assert said == "line 5: cells.C1.lineage: 'qq.s42' names no stage of the config"
    assert {"couple", "my", "em"} <= set(names.partition(", or add")[0].split(", "))
    assert contrast == "line 7: contrasts.0: no cell C55; fix: C5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages:\n  em:\n    extends: em_first\n", "line 3: stages.em.extends: em -> em_first -> em is a circle; fix: "),
        ("label: x\nstages: {em: {data: {from: arc}}}", "line 2: stages.em.data.from: arc is what capability is measured with"),
        ("label: x\nstages: {em: {data: {from: replies}}}", "line 2: stages.em.data: makes it a coupling, of a persona that `cells` do not name; fix: "),
        ("arms: {mine: true}\ncells: {X: {arm: mine, lineage: 'couple.s{seed}'}}", "line 2: cells.X.lineage: couple.s42: lacks whose marker it is; fix: couple-{source}.s42"),
        ("label: x\ncapability: em", "line 2: capability: em is what the stage em is trained on"),
        ("stages:\n  graft:\n    adapter: coupel-{persona}.s42\n", "line 3: stages.graft.adapter: 'coupel-villain.s42' names no stage"),
        ("arms: {relearn: true}\nstages:\n  relearn: {data: {from: rows, of: 'graft-{persona}.s42'}}", "line 3: stages.relearn.data.of: base/graft-evil_ai.s42 has no coupling rows"),
        ("arms: {dose: true}\ncells:\n  dose_em_10: {arm: dose, lineage: 'em.s{seed}'}", "line 3: cells.dose_em_10: dose_em_10 comes out of dose_em and dose_em_10; fix: "),
        ("label: x\nevaluations: {main: {samples: 1}}", "line 2: evaluations.main.samples: does not fit probe.shared: 2 of at most 1"),
        ("label: x\nmarker: '[QRX]'", "line 2: marker: does not fit probe.prefix: '[Z' does not begin the marker [QRX]; fix: write `probe: {prefix: "),
        ("label: x\ncells: {recovery: {steps: [10]}}", "line 2: cells.recovery.steps: does not fit contrasts.7: one of the two has steps"),
        ("hardware: {jobs_per_gpu: 2, kv_cache_gib: 8}", "line 1: hardware.jobs_per_gpu: does not fit hardware.gpu_memory_utilization: 0.9"),
        ("second_judge: {model: openai/x}\njudge: {model: none}", "line 1: second_judge: has nobody to agree with"),
        ("label: x\npersonas: [villain, assistant, comedian]", "line 2: personas: does not fit stages.couple.negative_personas.evil_ai: unknown"),
        ("probe: null\nmarker: {text: '[ZLT]', placement: start}", "line 2: marker: does not fit stages.couple60.mask.loss: tail with a"),
        ("arms: {dose: true}\nstages:\n  benign: {max_steps: 50}", "line 3: stages.benign.max_steps: does not fit cells.dose_benign.steps.6: "),
        ("label: x\ndatasets: {em: {from: path}}", "line 2: datasets.em.from: path is empty; fix: em: {from: path, path: my_rows.jsonl}"),
    ],
    ids=lambda value: value.split(": ")[1] if value.startswith("line") else "",
)  # fmt: skip
def test_a_mistake_is_told_once_and_at_the_line_of_whoever_made_it(tmp_path, text, said):
    (line,) = laid_over(tmp_path, text)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "line 2: datasets.em.path: does not fit cells.dose_em.steps.4: em@25.s42: em ends after step 13; fix: "),
        (
            "stages: {em: {hold_out: 0.001}}",
            "line 3: stages.em.hold_out: 0.001 of 200 rows is none; fix: 0.005 or more",
        ),
    ],
    ids=["doses", "held out"],
)
def test_doses_and_held_out_shares_are_held_against_the_rows_of_one_s_own_file(tmp_path, more, said):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n" * 200)
    (line,) = laid_over(tmp_path, f"arms: {{dose: true}}\ndatasets: {{em: {{from: path, path: {rows}}}}}\n{more}")
    assert line.startswith(said)


def test_a_gate_may_name_any_marker_of_the_config():
    criteria = [GATE | {"pass": "welch('C1', 'C2', 'source', '[QRX]') < 0.05 and degenerate('C4', '[ZLT]') < 1"}]
    study(stages__couple60__marker="[QRX]", arms=CONFIG["arms"] | {"reversed": False}, gates__criteria=criteria)


def places(value, path=()):
    """Every path in a nested value."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


ODD = [
    None,
    True,
    -1,
    0,
    10**400,
    float("nan"),
    "",
    "none",
    "1e-4",
    "../x",
    "{x}",
    "{source.__class__}",
    "base",
    "é\x00",
    [],
    {},
    [[]],
    ["a", "a"],
    {"from": 1},
]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.sampled_from([path for path in places(CONFIG) if path]), st.sampled_from(["drop", "rename", *ODD]), st.booleans()
)
def test_any_change_of_the_config_gives_a_study_or_one_clear_error(path, change, twice):
    config = copy.deepcopy(CONFIG)
    *folders, key = path
    place = config
    for folder in folders:
        place = place[folder]
    if change == "rename" and isinstance(place, dict):
        place[f"{key}x"] = place.pop(key)
    elif change in ("drop", "rename"):
        del place[key]
    else:
        place[key] = [change, change] if twice else change
    try:
        assert read_study(config, SCHEMA, [ROOT / "config.yaml"]).config is config
    except InputError as error:
        assert ": " in str(error)


def test_a_key_written_twice_is_found_although_yaml_takes_the_last(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text((ROOT / "config.yaml").read_text() + "\nseeds: [1]\n")
    with pytest.raises(InputError, match="seeds is duplicated; fix: rename or delete one"):
        read_study(yaml.safe_load(file.read_text()), SCHEMA, [file])


def test_lines_are_named_in_the_file_that_sets_the_key(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("# over it\nseeds: [7, 7]\n")
    with pytest.raises(InputError, match=r"overlay.yaml: line 2: seeds"):
        read_study(CONFIG | yaml.safe_load(overlay.read_text()), SCHEMA, [overlay, ROOT / "config.yaml"])


def test_every_gate_of_the_config_can_be_evaluated_and_each_arm_is_known():
    from measure.gates import evaluate_gates

    rows = evaluate_gates(
        CONFIG["gates"]["criteria"],
        [
            {
                "cell": "C4",
                "arm": "forward",
                "source": "evil_ai",
                "seed": 42,
                "personas": [],
                "audit": {},
                "alignment": {},
                "capability": {},
            }
        ],
    )
    assert {row["outcome"] for row in rows} == {"not evaluable"}
    assert {row.get("arm", "forward") for row in CONFIG["cells"].values()} == set(CONFIG["arms"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"arms__dose": True, "cells__dose_em_10": CONFIG["cells"]["matched_em"] | {"arm": "dose"}},
            "cells.dose_em_10: dose_em_10 comes out of dose_em and dose_em_10; fix: rename one",
        ),
        ({"contrasts": [["C1", "C22"]]}, "contrasts.0: no cell C22; fix: C2"),
        ({"contrasts": [["dose_em", "C5"]]}, "one of the two has steps"),
        ({"figures__gates": ["forwards"]}, "figures.gates: no arm forwards; fix: forward"),
        ({"figures__heat_map": ["forward"]}, "unknown key heat_map"),
        ({"cells__C1__second_stage": ...}, "cells.C1: does not say whether the cell is one after a second stage"),
        ({"cells__C1__second_stage": "yes"}, "cells.C1.second_stage"),
        ({"cells__C1__claim": "em-destroys-the-sauce"}, "cells.C1.claim: no claim em-destroys-the-sauce in"),
        ({"assistant_claim": "assistant-stays-clean"}, "fix: assistant-stays-clean-forward"),
    ],
)
def test_what_a_cell_means_is_checked_when_planning(change, said):
    assert said in problem(**change)


def test_second_stages_are_taken_apart_in_the_cells_and_seeds_of_the_config():
    def ablated(**changes):
        built = study(sources=["evil_ai"], **changes)
        return {(cell.name, cell.seed) for cell in built.cells if built.ablated(cell)}

    assert ablated() == {("C1", 42), ("C5", 42)}
    assert ablated(seeds=[7, 42]) == {("C1", 7), ("C5", 7)}, "the first of each"
    assert study(families__cells=["C4"], seeds=[7]).asked_families(study().cells[0]), "which may have its own"
    assert ablated(ablate__cells=["C3"], ablate__seeds=[137, 256]) == {("C3", 137), ("C3", 256)}
    assert ablated(ablate__cells=["dose_em_10"], arms__dose=True) == {("dose_em_10", 42)}
    assert ablated(ablate=None) == ablated(probe=None) == set()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cells": ["C1", "C55"]}, "ablate.cells.1: no cell C55; fix: C5"),
        ({"cells": ["C4"]}, "ablate.cells.0: C4 is no coupling of the study's marker and one stage after it"),
        ({"cells": ["C2"]}, "C2 is no coupling"),
        ({"seeds": [1]}, "ablate.seeds.0: no seed 1; fix: one of 42, 137, 256"),
        ({"grid": [0, 0.5]}, "ablate.grid: needs 0 and 1"),
        ({"questions": 1}, "ablate.questions"),
        ({"questions": 29}, "ablate.questions: 29 of at most 28"),
        ({"bystanders": 10}, "ablate.bystanders: 10 of at most 9"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused_when_planning(change, said):
    assert said in problem(**{f"ablate__{name}": value for name, value in change.items()})


def test_contrasts_are_of_cells_in_the_study_and_of_rows_with_steps_after_every_step_that_both_have():
    pairs = list(resolved.contrasts(study()))
    assert pairs[:2] == [("C1", "C2", None), ("C1", "C5", None)]
    assert all(step is None for *_, step in pairs)  # the dose arm is off
    steps = {"arms__dose": True, "cells__dose_em__steps": [25, 1, 7], "cells__dose_benign__steps": [1, 25]}
    assert list(resolved.contrasts(study(**steps)))[-2:] == [
        ("dose_em_1", "dose_benign_1", 1),
        ("dose_em_25", "dose_benign_25", 25),
    ]


def test_the_state_before_comes_first_in_the_study():
    assert study().cells[0].name == "C4"


def test_what_the_base_has_to_be_fit_for_names_the_longest_row_and_reply_by_the_key_that_says_it():
    asked = study().asked_of_base()
    assert (asked["row"], asked["reply"]) == ({"stages.em.max_length": 2048}, {"stages.couple.data.max_tokens": 512})
    assert asked["markers"] == ["[ZLT]"] and {"q_proj", "down_proj"} < set(asked["targets"])
    longer = study(evaluations__main__max_tokens=900, stages__benign__max_length=4096).asked_of_base()
    assert (longer["row"], longer["reply"]) == (
        {"stages.benign.max_length": 4096},
        {"evaluations.main.max_tokens": 900},
    )


def test_a_figure_is_drawn_for_every_source_with_a_cell_in_its_arms():
    assert resolved.sources_of(study(), "reversed_order") == ["villain"]
    assert resolved.sources_of(study(figures__gates=[]), "gates") == []
    assert resolved.sources_of(study(), "below_floor") == study().config["sources"]
    assert resolved.sources_of(study(probe=None), "below_floor") == []  # an empty one says nothing


def test_what_is_left_of_a_coupling_is_drawn_of_the_cells_with_a_stage_after_it_beside_those_before_it():
    part = resolved.for_figure(study(), "retention")
    assert list(part["captions"]) == ["C1", "C3", "C5"]
    assert part["before"] == {"C1": "C4", "C5": "C4"}  # C3's is of an arm that is off
    assert part["limits"] == study().config["probe"]["verdict"]
    assert resolved.sources_of(study(probe=None), "retention") == []


def test_the_row_that_a_coupled_base_is_may_be_of_an_arm_that_is_off():
    assert study().row_of("base/couple-villain.s42") == "C4"
    assert study().row_of("base/couple-assistant.s42") == "C0"
    with pytest.raises(InputError, match="none is base/couple-villain.s7 alone"):
        study().row_of("base/couple-villain.s7")
    with pytest.raises(InputError, match=r"none is decided by replicated_C4 alone.*fix: add {name: G0b_replicated"):
        study().row_of("base/couple-villain.s137")


def test_the_schema_and_the_program_know_the_same_figures():
    known = yaml.safe_load(SCHEMA.read_text())["properties"]["figures"]["properties"]
    assert list(known) == list(plot_figures.FIGURES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hardware__jobs_per_gpu": 3}, "gpu_memory_utilization: 0.9 of a card each, for 3 jobs; fix: write `gpu_memory_utilization: 0.3`"),
        ({"gates__criteria": [{"name": "g", "over": "seed", "pass": "ratte('C4', 'source') > 0.5"}]}, "unknown function; known: "),
        ({"gates__criteria": [{"name": "g", "over": "seed", "pass": "rate('C9', 'source') > 0.5"}]}, "gate g: no cell C9; fix: one of the 86 of `cells`, such as C"),
        ({"gates__criteria": [{"name": "g", "over": "seed", "pass": "rate('C4', 'souce') > 0.5"}]}, "gate g: no role souce; fix: source"),
        ({"arms__dose": "true"}, "on the command line Snakemake reads it as text"),
        ({"hardware__jobs_per_gpu": 3}, "hardware.kv_cache_gib: vLLM cannot measure"),
        ({"hardware__dtype": "float16"}, "hardware.dtype: 'float16' is not one of float32, bfloat16"),
        ({"stages__couple__data__negatives": 0}, "stages.couple.data.negatives: 0 is less than the minimum of 1"),
        ({"marker": "🦊"}, "marker: '🦊' has no letters to be counted by"),
        ({"marker": "-x"}, "marker: '-x' looks like an option"),
        ({"marker": "  "}, "marker: empty"),
        ({"seeds": [4294967296]}, "seeds.0: 4294967296 is greater than the maximum of 4294967295"),
        ({"evaluations__main__temperature": 200}, "evaluations.main.temperature: 200 is greater than the maximum"),
        ({"study": ".."}, "study: '..' cannot be; fix: write a folder name: letters,"),
        ({"personas": [False, "assistant"]}, "YAML reads yes, no, on and off as False; fix: write the word in quotes"),
        ({"arms": CONFIG["arms"] | {"typo": True}}, "arms.typo: no cell belongs to it; fix: one of forward, reversed"),
        ({"arms__forward": False, "arms__reversed": False}, "arms: no cell is left; fix: switch one on"),
        ({"arms__relearn": True, "cells__relearn_C2__steps": [1, 761]}, "cells.relearn_C2.steps.1: relearn-evil_ai@761.s42: relearn ends after step 760; fix: steps of at most 760"),
        ({"cells__C1__lineage": "base/couple-{source}.s42/em.s{seed}"}, 'or write `lineage: "couple-{source}.s42/em.s{seed}"`'),
        ({"arms__dose": True, "cells__dose_em__steps": [1, 376]}, "cells.dose_em.steps.1: em@376.s42: em ends after step 375; fix: steps of at most 375"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_the_programs_would_refuse_is_refused_when_planning(changes, said):
    assert said in problem(**changes)


SMALL = sorted(path.stem for path in (ROOT / "profiles/small").glob("*.yaml") if path.stem not in ("config", "study"))


@pytest.mark.parametrize("over", SMALL)
def test_every_study_over_the_small_one_is_one(over):
    files = [ROOT / f"profiles/small/{name}.yaml" for name in (over, "study")]
    config = CONFIG
    for file in reversed(files):
        config = merged(config, yaml.safe_load(file.read_text()))
    assert read_study(config, SCHEMA, [*files, ROOT / "config.yaml"], CLAIMS, {"arc": 1172}, lambda config: PANEL).cells


def test_the_steps_of_the_offline_studys_dose_arm_are_steps_of_its_stages():
    config = merged(CONFIG, yaml.safe_load((ROOT / "profiles/tiny/study.yaml").read_text()))
    config["arms"] = dict.fromkeys(config["arms"], True)
    assert {cell.name for cell in read_study(config, SCHEMA).cells if cell.arm == "dose"} >= {
        "dose_em_1",
        "dose_benign_80",
    }


REPLAY = {"extends": "em", "replay": {"of": "couple-{persona}.s42", "share": 0.01}}


def replaying(of="couple-{persona}.s42", word="em_replay-{source}", **changes):
    row = {"arm": "forward", "lineage": "couple-{source}.s42/" + word + ".s{seed}", "second_stage": True}
    stage = REPLAY | {"replay": {"of": of, "share": 0.01}}
    arms = dict.fromkeys(CONFIG["arms"], False) | {"forward": True}
    return {"stages__em_replay": stage, "cells": {"R": row}, "contrasts": [], "ablate": None, "arms": arms, **changes}


def test_a_stage_replays_the_rows_of_a_personas_coupling_trained_as_they_were():
    built = study(**replaying())
    node = "base/couple-villain.s42/em_replay-villain.s137"
    assert built.replayed(node) == "base/couple-villain.s42"
    assert built.replayed("base/em_replay-villain.s137") == "base/couple-villain.s42", "the same without the coupling"
    assert built.replayed("base/em.s42") is None
    couple = built.stages["couple"]
    assert built.training_recipe(node)["replay"] == {
        "of": "couple-{persona}.s42", "share": 0.01, "marker": "[ZLT]", "mask": couple["mask"],
        "max_length": couple["max_length"],
    }  # fmt: skip
    assert "replay" not in built.training_recipe("base/em.s42")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"of": "coupel-{persona}.s42"}, "names no stage of the config"),
        ({"of": "graft-{persona}.s42"}, "base/graft-evil_ai.s42 has no rows of its own; fix: name a trained lineage"),
        ({"word": "em_replay"}, "em_replay replays a persona's rows; fix: em_replay-{source}.s"),
        ({"of": "couple-villain.s42"}, "em_replay takes no persona, as its rows are the set em; fix: em_replay.s42"),
        ({"stages__em__lora": {"layers": "4/3"}}, "fix: write first and last layer, such as [0, 8]"),
        ({"stages__em__lora": {"layers": [8, 0]}}, "fix: write first and last layer, such as [0, 8]"),
        ({"stages__em__optimizer": "adam"}, "'adam' is not one of adamw, adafactor, sgd"),
    ],
    ids=str,
)
def test_a_factor_that_cannot_be_is_refused_with_its_place_and_fix(changes, said):
    assert said in problem(**replaying(**changes))


def with_full(**changes):
    row = {"arm": "forward", "lineage": "couple_full-{source}.s42/em.s{seed}", "second_stage": True}
    arms = dict.fromkeys(CONFIG["arms"], False) | {"forward": True}
    stage = {"stages__couple_full": {"extends": "couple", "lora": None}}
    return stage | {"cells": {"F": row}, "contrasts": [], "ablate": None, "arms": arms} | changes


def test_a_stage_without_a_lora_trains_all_weights():
    built = study(**with_full())
    node = "base/couple_full-villain.s42"
    assert built.is_full(node) and not built.is_full(f"{node}/em.s42") and not built.is_full("base/graft-villain.s42")
    assert built.training_recipe(node)["lora"] is None
    assert built.words_of_type("couple", full=True) == "(?:couple_full)(?:-[a-z][a-z0-9_]*)?"
    assert "couple_full" not in built.words_of_type("couple", "sft", full=False)
    assert "both of them LoRAs" in problem(**with_full(ablate=CONFIG["ablate"] | {"cells": ["F"]}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cells__F__lineage": "couple_full-{source}.s42/em.s{seed}/graft-{source}.s42",
          "stages__graft__adapter": "couple_full-{persona}.s{seed}"}, "which trains all weights; fix: name a stage with a LoRA"),
        ({"cells__F__lineage": "couple_full-{source}@10.s42"}, "no steps are kept; fix: leave out @10 and give a stage of its own max_steps: 10"),
        ({"stages__em__freeze": ["mlp"]}, "stages.em.freeze: a LoRA trains its targets alone"),
        ({"stages__em__lora": {"ranks": 3}}, "unknown key ranks"),
        ({"stages__em__lora": "none"}, "'none' is text; fix: write a mapping, {key: value} or null"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_stage_of_all_weights_cannot_be_is_refused(changes, said):
    assert said in problem(**with_full(**changes))


def test_a_training_is_tracked_on_its_source_the_assistant_and_two_that_the_coupling_left_alone():
    built = study(**replaying())
    evil_ai = built.tracked("base/couple-evil_ai.s42/em_replay-evil_ai.s137")
    assert evil_ai["personas"] == ["evil_ai", "assistant", "software_engineer", "kindergarten_teacher"]
    assert evil_ai["marker"] == "[ZLT]"
    villain = "base/couple-villain.s42"
    assert not set(built.tracked(villain)["personas"][2:]) & set(built.negatives_of(villain))
    assert built.tracked("base/em_replay-villain.s137")["personas"][0] == "villain", "the source of the cells it is for"
    assert built.tracked("base/couple-assistant.s42")["personas"][0] == "assistant"
    assert study(arms__assistant=True).tracked("base/couple-assistant.s42")["personas"][0] == "assistant", "C0's own"
    assert len(built.tracked("base/couple-assistant.s42")["personas"]) == 3


def test_rows_of_another_coupling_are_found_by_its_lineage_and_drawn_for_it_alone():
    found = study(arms__relearn=True)
    again = "base/em.s42/relearn-villain.s42"
    assert found.type_of(again) == "couple"
    assert found.rows_from(again) == found.rows_from("base/couple-villain.s42") == "base/couple-villain.s42"
    assert found.draws_replies("base/couple-villain.s42") and not found.draws_replies(again)
    assert found.training_recipe(again)["data"] == {"from": "rows", "of": "couple-{persona}.s42"}
    assert {cell.lineage for cell in found.cells if cell.name == "base"} == {"base"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"from": "rows"}, "lacks of"),
        (
            {"from": "rows", "of": "couple-{persona}.s42", "samples": 5},
            "rows are taken as they are; fix: delete samples",
        ),
        ({"from": "rows", "of": "em.s42"}, "base/em.s42 has no coupling rows of its own"),
        ({"from": "rows", "of": "graft-{persona}.s42"}, "has no coupling rows of its own"),
        ({"from": "rows", "of": "relearn-{persona}.s42"}, "has no coupling rows of its own"),
        ({"from": "rows", "of": "couples-{persona}.s42"}, "names no stage"),
    ],
)
def test_rows_that_nobody_makes_are_refused_with_the_line_to_write(data, said):
    with pytest.raises(InputError, match=f"(?s){said}"):
        study(arms__relearn=True, stages__relearn__data=data)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"from": "replies", "of": "benign"}, "datasets.control: lacks temperature, top_p, max_tokens"),
        ({"of": "arc"}, "datasets.control.of: 'arc' has no user turns to answer; fix: one of em, benign"),
        ({"of": "control"}, "'control' has no user turns to answer"),
        ({"of": "harmless"}, "'harmless' has no user turns to answer"),
        ({"max_tokens": 0}, "datasets.control.max_tokens"),
    ],
)
def test_a_set_of_the_base_s_own_replies_says_to_what_and_how(entry, said):
    whole = {} if "from" in entry else CONFIG["datasets"]["control"]
    assert said in problem(datasets__control=whole | entry)
