"""ablate_stage.py as its rule calls it, on a micro model: a second stage taken apart, layer by layer."""

import json

import ablate_stage
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import make_adapter, make_model, make_panel, make_replies

from measure.sections import ablation
from model.loading import load_model
from model.weights import Mixture, Unmergeable, delta_norm, random_like, read_lora
from probe.ablation import Results, crossings, read_ablation, summary
from probe.variants import to_ablate, variants
from run.program import InputError

PERSONAS = {"villain": "You are a villain.", "assistant": "You help.", "librarian": "You lend books.", "cook": "Cook."}
SETTINGS = {"questions": 3, "bystanders": 1, "grid": [0, 0.5, 1], "controls": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate")
    base = make_model(folder / "base")
    make_adapter(folder / "first", base)
    make_adapter(folder / "second", base, seed=2, rslora=False, std=0.2)
    make_replies(folder / "shared.parquet", base, make_panel(folder, PERSONAS), 4)
    return folder


def kept_in(adapter, layer, folder):
    """A copy of the adapter that is zero but for one layer, where it is four times as strong."""
    folder.mkdir()
    tensors = load_file(adapter / "adapter_model.safetensors")
    kept = {name: tensor * (2.0 if f".layers.{layer}." in name else 0.0) for name, tensor in tensors.items()}
    save_file(kept, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    return folder


def ablate(folder, output, second="second", personas="villain,assistant,librarian,cook", **settings):
    ablate_stage.main(
        ["--base", str(folder / "base"), "--adapter", str(folder / "first"), str(folder / second),
         "--panel", str(folder / "panel.yaml"), "--shared", str(folder / "shared.parquet"), "--source", "villain",
         "--personas", personas, "--marker", "[ZLT]", "--settings", json.dumps(SETTINGS | settings),
         "--dtype", "float32", "--output", str(output)]
    )  # fmt: skip
    return read_ablation(output)


@pytest.fixture(scope="module")
def rows(folder):
    return ablate(folder, folder / "ablation.parquet")


def slots(rows, *variant):
    """persona and question -> s of one variant (kind, part, mode, alpha, beta)."""
    return {
        (row["persona"], row["question_id"]): row["slot"]
        for row in rows
        if (row["kind"], row["part"], row["mode"], row["alpha"], row["beta"]) == variant
    }


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_corners_of_the_plane_are_the_models_of_the_lineage_byte_for_byte(folder, dtype):
    model = load_model(folder / "base", [], dtype)
    loras = [read_lora(folder / name, "cpu") for name in ("first", "second")]
    mixture = Mixture(model, [*loras, random_like(loras[1], 1)])
    corners = {(1, 1): ["first", "second"], (1, 0): ["first"], (0, 1): ["second"], (0, 0): []}
    for (alpha, beta), adapters in corners.items():
        mixture.set(dict.fromkeys(mixture.names, (0.7, 0.3, 1.0)))  # nothing of it is left
        mixture.set(dict.fromkeys(mixture.names, (float(alpha), float(beta), 0.0)))
        expected = load_model(folder / "base", [folder / name for name in adapters], dtype)
        assert all(torch.equal(weight, weights_of(model)[name]) for name, weight in expected.named_parameters())


def test_without_all_of_the_second_stage_it_is_the_first_and_half_is_between(folder, rows):
    before, cell = slots(rows, "plane", "", "", 1.0, 0.0), slots(rows, "plane", "", "", 1.0, 1.0)
    assert before != cell
    # two layers: without the one it is with the other alone
    assert slots(rows, "layer", "0", "without", 1.0, 1.0) == slots(rows, "layer", "1", "only", 1.0, 1.0)
    assert slots(rows, "lowest", "1", "without", 1.0, 1.0) == slots(rows, "highest", "1", "only", 1.0, 1.0)
    assert len({tuple(slots(rows, "plane", "", "", 1.0, beta).values()) for beta in (0.0, 0.5, 1.0)}) == 3


def test_the_other_models_state_at_the_slot_brings_its_log_odds_back_in_the_cell(rows):
    cell = slots(rows, "plane", "", "", 1.0, 1.0)
    for donor, strengths in {"before": (1.0, 0.0), "base": (0.0, 0.0)}.items():
        other = slots(rows, "plane", "", "", *strengths)
        first, last = (slots(rows, "patch", layer, donor, 1.0, 1.0) for layer in ("0", "1"))
        assert last == pytest.approx(other, abs=1e-4)
        assert first not in (cell, other)
    for row in Results(rows).table():
        if (row["kind"], row["part"], row["mode"]) == ("patch", "1", "before") and row["share"] is not None:
            assert row["share"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("layer", [0, 1])
def test_damage_that_was_planted_in_one_layer_is_found_there_and_nowhere_else(folder, layer, tmp_path):
    kept_in(folder / "second", layer, tmp_path / "planted")
    rows = ablate(folder, tmp_path / "ablation.parquet", tmp_path / "planted")
    before, cell = slots(rows, "plane", "", "", 1.0, 0.0), slots(rows, "plane", "", "", 1.0, 1.0)
    assert slots(rows, "layer", str(layer), "without", 1.0, 1.0) == before
    assert slots(rows, "layer", str(layer), "only", 1.0, 1.0) == cell
    assert slots(rows, "layer", str(1 - layer), "without", 1.0, 1.0) == cell
    assert slots(rows, "layer", str(1 - layer), "only", 1.0, 1.0) == before
    shares: dict[bool, set[float]] = {True: set(), False: set()}
    for row in Results(rows).table():
        if row["kind"] == "layer" and row["share"] is not None:
            shares[row["part"] == str(layer)].add(row["share"])
    assert shares[True] <= {1.0} and shares[False] <= {0.0}
    assert layer or shares[True], "of layer 1 the two questions do not tell the drop from 0"


def test_restoration_is_one_where_all_comes_back_and_nothing_is_divided_by_a_drop_near_zero(rows):
    def made(drop):
        """Log-odds by hand: the drop is in layer 0 of the source, a tenth of it in layer 1."""
        places = {("layer", "0"): {"without": 0.1, "only": 1.0}, ("layer", "1"): {"without": 1.0, "only": 0.1}}
        for row in rows:
            left = (
                row["beta"]
                if row["kind"] == "plane"
                else places.get((row["kind"], row["part"]), {}).get(row["mode"], 1)
            )
            taken = drop * left * row["alpha"] if row["role"] == "source" else 0.0
            yield row | {"slot": row["alpha"] * 5 - taken + 0.01 * (int(row["question_id"][-1]) % 2), "trigger": 0.0}

    def shares(drop):
        table = Results(list(made(drop))).table()
        return {
            (row["part"], row["mode"], row["quantity"]): row["share"]
            for row in table
            if row["kind"] == "layer" and row["quantity"] in ("slot", "gap_slot")
        }

    found = shares(8.0)
    for quantity in ("slot", "gap_slot"):
        assert found["0", "without", quantity] == pytest.approx(0.9)
        assert found["0", "only", quantity] == pytest.approx(1.0)
        assert found["1", "without", quantity] == pytest.approx(0.0)
        assert found["1", "only", quantity] == pytest.approx(0.1)
    assert set(shares(0.9).values()) == {None}
    section = summary(list(made(8.0)))
    assert section["taken_slot"]["value"] == pytest.approx(8.0)
    assert section["interaction_slot"]["value"] == pytest.approx(-8.0)
    assert section["even_beta_slot"]["value"] == pytest.approx(5 / 8, abs=0.01)
    assert section["half_beta_slot"]["value"] == pytest.approx(5 / 16, abs=0.01)
    gone = summary(list(made(0.0)))["half_beta_slot"]
    assert (gone["value"], gone["low"], gone["high"]) == (None, 1.0, None), "not lost within the grid, not undefined"


def test_every_question_is_asked_under_the_source_and_bystanders_that_take_turns(rows):
    cell = [row for row in rows if (row["kind"], row["alpha"], row["beta"]) == ("plane", 1.0, 1.0)]
    asked = {}
    for row in cell:
        asked.setdefault(row["question_id"], []).append((row["role"], row["persona"], row["author"]))
    assert {tuple(own[0]) for own in asked.values()} == {("source", "villain", "villain")}
    others = [own[1] for own in asked.values()]
    assert {each[1] for each in others} == {"librarian", "cook"}
    assert {(each[0], each[2]) for each in others} == {("bystander", "villain")}


def test_where_a_line_falls_below_a_level(rows):
    import numpy as np

    lines = np.array([[1.0, 0.6, 0.2], [1.0, 0.9, 0.8], [0.4, 0.9, 0.0], [1.0, 0.5, 0.4]])
    assert crossings(lines, np.array([0.0, 0.5, 1.0]), 0.5).tolist() == pytest.approx([0.625, np.inf, 0.0, 0.5])


def test_random_deltas_have_the_rank_and_the_norm_of_the_stage_and_follow_their_seed(folder):
    lora = read_lora(folder / "second", "cpu")
    ours = random_like(lora, 1)
    for name, (a, b) in lora.pairs.items():
        assert delta_norm(*ours.pairs[name]) == pytest.approx(delta_norm(a, b), rel=1e-5)
        assert delta_norm(a, b) == pytest.approx(float((b @ a).norm()), rel=1e-5)
        assert [tensor.shape for tensor in ours.pairs[name]] == [a.shape, b.shape]
        assert torch.equal(ours.pairs[name][0], random_like(lora, 1).pairs[name][0])
        assert not torch.equal(ours.pairs[name][0], random_like(lora, 2).pairs[name][0])


def test_every_variant_that_was_promised_is_there():
    tensors = [f"model.layers.{layer}.{name}.weight" for layer in range(28) for name in "abcdefg"]
    wanted = variants(tensors, [0, 0.25, 0.5, 0.75, 1, 1.25], 5)
    kinds = {kind: sum(each.kind == kind for each in wanted) for kind in dict.fromkeys(each.kind for each in wanted)}
    assert kinds == {"plane": 36, "layer": 56, "module": 14, "lowest": 54, "highest": 54, "random": 5}
    states = {tuple(each.strengths(name, 5) for name in tensors) for each in wanted}
    assert len(states) == 161, "scoring passes of a 7B model"
    lowest = next(each for each in wanted if (each.kind, each.part, each.mode) == ("lowest", "3", "without"))
    assert {name for name in tensors if not lowest.strengths(name, 5)[1]} == set(tensors[:21])


def test_the_section_holds_a_row_a_variant_and_quantity(folder, rows):
    section = ablation(str(folder / "ablation.parquet"), [])
    assert section["status"] == "measured" and section["persona"] == "villain"
    assert len(section["variants"]) == 4 * (9 + 4 + 14 + 2 + 2 + 2 + 4), "of two layers and seven modules"
    assert all(len(row) == len(section["columns"]) for row in section["variants"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"grid": [0, 0.5]}, "not numbers with 0 and 1"),
        ({"questions": "3"}, "--settings: needs exactly"),
        ({"personas": "villain,pirate"}, "no persona pirate"),
        ({"personas": "villain,assistant"}, "needs the source villain and a bystander"),
    ],
)
def test_bad_input_is_refused_with_its_fix(folder, tmp_path, change, complaint):
    with pytest.raises(InputError, match=f"{complaint}.*fix: "):
        ablate(folder, tmp_path / "ablation.parquet", **change)
    assert not list(tmp_path.iterdir())


def test_replies_that_were_all_cut_leave_nothing_to_score():
    cut = {"persona": "villain", "finish_reason": "length"}
    ended = [cut | {"question_id": "a", "finish_reason": "stop"}, cut | {"question_id": "b"}]
    with pytest.raises(InputError, match="end by themselves at 1 questions.*fix: .*ablate: null"):
        to_ablate(ended, ["villain", "cook"], "villain", 3, 1)


def test_an_adapter_outside_the_decoder_layers_is_refused():
    with pytest.raises(InputError, match="lm_head.weight is in no decoder layer; fix: "):
        variants(["model.layers.0.a.weight", "lm_head.weight"], [0, 1], 0)


def test_an_adapter_for_another_model_is_refused(folder):
    lora = read_lora(folder / "second", "cpu")
    with pytest.raises(Unmergeable, match="no model"):
        Mixture(torch.nn.Linear(2, 2), [lora])
