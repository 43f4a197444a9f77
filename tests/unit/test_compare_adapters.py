"""compare_adapters.py as its rule calls it, on a micro model."""

import math

import compare_adapters
import pyarrow.parquet
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_model import SIZES, TARGETS, make_adapter, make_model, make_panel, make_replies

from measure.sections import MERGED, adapters, merging
from measure.tables import read_table
from model.loading import load_model
from model.weights import read_lora
from run.files import sha256_of, write_json
from run.program import InputError
from run.readers import read_json

PERSONAS = {"villain": "You are a villain.", "assistant": "You help."}
LAST = "couple-villain.s42/em.s42"
STAGES = {"couple-villain.s42": 1, LAST: 2}


def tell(node, lineage, seeds, **more):
    """The manifest of a node."""
    write_json(
        node / "manifest.json", {"lineage": lineage, "adapter": sha256_of(node / "adapter"), "seeds": seeds} | more
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    make_model(folder / "base")
    for word, seed in STAGES.items():
        make_adapter(folder / word / "adapter", folder / "base", seed)
        tell(folder / word, f"base/{word}", {"lora_init": seed})
    make_replies(folder / "base.parquet", folder / "base", make_panel(folder, PERSONAS), 3)
    return folder


def merged_of(output):
    """Where the other table of a comparison stands."""
    return output.with_suffix(".merged.csv")


def compare(folder, output, words=tuple(STAGES), *options, dtype="float32"):
    paths = [folder / word for word in words]
    compare_adapters.main(
        ["--base", str(folder / "base"), "--adapter", *(str(path / "adapter") for path in paths),
         "--panel", str(folder / "panel.yaml"),
         "--shared", str(folder / "base.parquet"), "--persona", "villain", "--marker", "[ZLT]",
         "--dtype", dtype, "--output", str(output), "--merged", str(merged_of(output)), *options]
    )  # fmt: skip
    return read_table(output)


@pytest.fixture(scope="module")
def rows(folder):
    return compare(folder, folder / "adapters.csv", tuple(STAGES), "--intruders")


def test_there_is_a_row_for_every_layer_that_both_have_adapters_for(rows):
    assert [(row["layer"], row["module"].rpartition(".")[2]) for row in rows] == [
        (layer, target) for layer in range(SIZES["layers"]) for target in TARGETS
    ]
    assert {(row["first"], row["second"]) for row in rows} == {tuple(f"base/{stage}" for stage in STAGES)}
    assert {(row["rank_first"], row["rank_second"]) for row in rows} == {(4, 4)}


def test_the_a_that_a_training_began_with_is_drawn_again_from_its_seed(folder, rows, tmp_path):
    # these adapters' A are as they were drawn
    assert all(row["kept_first"] == row["kept_second"] == pytest.approx(1) for row in rows)
    node = folder / LAST
    try:
        tell(node, f"base/{LAST}", {"lora_init": 7})
        assert all(row["kept_second"] < 0.5 for row in compare(folder, tmp_path / "seven.csv"))
        tell(node, f"base/{LAST}", {}, origin={"seeds": {"lora_init": 2}})
        assert all(row["kept_second"] == pytest.approx(1) for row in compare(folder, tmp_path / "origin.csv"))
        tell(node, f"base/{LAST}", {})
        assert all(row["kept_second"] is None for row in compare(folder, tmp_path / "hub.csv"))
    finally:
        tell(node, f"base/{LAST}", {"lora_init": 2})


def test_an_adapter_beside_itself_is_itself(folder, tmp_path):
    for row in compare(folder, tmp_path / "twice.csv", (LAST, LAST)):
        for name in ("input_overlap", "output_overlap", "cosine", "functional"):
            assert row[name] == pytest.approx(1)
        assert row["input_angle"] == pytest.approx(0, abs=1e-4)
        assert row["norm_first"] == row["norm_second"]
        assert row["intruders_both"] is None


def test_the_functional_ratio_is_that_of_what_the_two_add_at_the_slot(folder, rows):
    args = compare_adapters.parse_args(
        ["--base", str(folder / "base"), "--panel", str(folder / "panel.yaml"), "--persona", "villain",
         "--shared", str(folder / "base.parquet"), "--marker", "[ZLT]", "--output", "none", "--merged", "none"]
    )  # fmt: skip
    trunks = compare_adapters.slot_trunks(args)
    assert 1 < len(trunks) <= 3
    paths = [folder / word / "adapter" for word in STAGES]
    model = load_model(folder / "base", paths)
    taken = []
    layer = model.model.layers[1].mlp.down_proj
    layer.register_forward_pre_hook(lambda module, given: taken.append(given[0][0, -1]))
    for trunk in trunks:
        model(input_ids=torch.tensor([trunk]))
    deltas = []
    for path in paths:
        wrapped = PeftModel.from_pretrained(load_model(folder / "base"), path)
        deltas.append(wrapped.base_model.model.model.layers[1].mlp.down_proj.get_delta_weight("default"))
    first, second = ((torch.stack(taken) @ delta.T).pow(2).sum().sqrt().item() for delta in deltas)
    (row,) = [row for row in rows if row["layer"] == 1 and row["module"] == "mlp.down_proj"]
    assert row["functional"] == pytest.approx(second / first, rel=1e-4)
    assert row["norm_second"] == pytest.approx(deltas[1].norm().item(), rel=1e-4)


def test_one_adapter_has_nothing_to_be_compared_with(folder, tmp_path):
    assert compare(folder, tmp_path / "adapters.csv", (LAST,)) == []
    assert adapters(str(tmp_path / "adapters.csv"), ()) == {"status": "no two adapters"}


def test_layers_of_one_adapter_alone_are_left_out(folder, tmp_path):
    few = tmp_path / "few"
    config = read_json(folder / LAST / "adapter" / "adapter_config.json")
    tensors = load_file(folder / LAST / "adapter" / "adapter_model.safetensors")
    (few / "adapter").mkdir(parents=True)
    write_json(few / "adapter" / "adapter_config.json", config | {"target_modules": ["q_proj"]})
    save_file({k: v for k, v in tensors.items() if "q_proj" in k}, few / "adapter" / "adapter_model.safetensors")
    tell(few, "base/few.s42", {"lora_init": 2})
    found = compare(folder, tmp_path / "adapters.csv", ("couple-villain.s42", few))
    assert {row["module"] for row in found} == {"self_attn.q_proj"}


def test_a_cell_s_section_is_of_the_first_stage_and_the_last(folder, rows, tmp_path):
    third = f"{LAST}/benign.s42"
    make_adapter(tmp_path / "third" / "adapter", folder / "base", 3)
    tell(tmp_path / "third", f"base/{third}", {"lora_init": 3})
    found = compare(folder, tmp_path / "adapters.csv", (*STAGES, tmp_path / "third"))
    assert len(found) == 3 * len(rows)
    section = adapters(str(tmp_path / "adapters.csv"), ())
    assert (section["status"], section["first"], section["second"]) == (
        "compared",
        "base/couple-villain.s42",
        f"base/{third}",
    )
    own = [row for row in found if (row["first"], row["second"]) == (section["first"], section["second"])]
    assert section["adapter_norm_second"]["value"] == pytest.approx(math.hypot(*(row["norm_second"] for row in own)))
    assert section["adapter_cosine"]["value"] == pytest.approx(sum(row["cosine"] for row in own) / len(own), abs=1e-6)
    assert section["adapter_intruders_both"] == {"value": None, "low": None, "high": None, "n": 0}


def weakened(folder, node, strength):
    """A copy of the last stage's adapter whose deltas are so much weaker, as a node."""
    at = folder / LAST / "adapter"
    tensors = load_file(at / "adapter_model.safetensors")
    (node / "adapter").mkdir(parents=True)
    write_json(node / "adapter" / "adapter_config.json", read_json(at / "adapter_config.json"))
    save_file(
        {name: tensor * strength if "lora_B" in name else tensor for name, tensor in tensors.items()},
        node / "adapter" / "adapter_model.safetensors",
    )
    tell(node, "base/weak.s42", {"lora_init": 2})
    return node


def test_a_merge_in_float32_keeps_the_whole_of_every_stage(folder, rows):
    path = merged_of(folder / "adapters.csv")
    found = read_table(path, MERGED)
    assert {row["stage"] for row in found} == {f"base/{stage}" for stage in STAGES}
    assert len(found) == len(STAGES) * SIZES["layers"] * len(TARGETS)
    assert all(row["merged"] == 1 and row["error"] < 1e-6 for row in found)
    section = merging(str(path), ())
    assert [stage["merged"] for stage in section["stages"]] == [1, 1]
    assert section["merged_first"] == {"value": 1, "low": None, "high": None, "n": 14}


@pytest.mark.parametrize(("strength", "kept", "error"), [(1e-5, (0, 0.02), (0.98, 1.001)), (1, (0.98, 1.02), (0, 0.1))])
def test_what_is_far_under_the_weights_grid_is_lost_in_a_merge_into_bfloat16(folder, tmp_path, strength, kept, error):
    weak = weakened(folder, tmp_path / "weak", strength)
    compare(folder, tmp_path / "adapters.csv", (weak,), dtype="bfloat16")
    section = merging(str(merged_of(tmp_path / "adapters.csv")), ())
    assert kept[0] <= section["merged_last"]["value"] <= kept[1]
    assert error[0] <= section["merge_error_last"]["value"] <= error[1]
    assert section["merged_first"] == section["merged_last"], "a stage alone is both"


def test_what_is_kept_is_read_off_the_merged_models_on_disk(folder, tmp_path):
    node = weakened(folder, tmp_path / "weak", 0.02)
    lineage = [folder / "couple-villain.s42", node]
    compare(folder, tmp_path / "adapters.csv", lineage, dtype="bfloat16")
    (_, last) = merging(str(merged_of(tmp_path / "adapters.csv")), ())["stages"]
    tensors = []
    for count in (1, 2):
        at = tmp_path / f"after-{count}"
        load_model(folder / "base", [each / "adapter" for each in lineage[:count]], "bfloat16").save_pretrained(at)
        tensors.append(load_file(at / "model.safetensors"))
    lora = read_lora(node / "adapter", "cpu")
    delta, arrived = [], []
    for name, (a, b) in lora.pairs.items():
        delta.append((lora.scaling * b.double() @ a.double()).flatten())
        arrived.append((tensors[1][name].double() - tensors[0][name].double()).flatten())
    delta, arrived = torch.cat(delta), torch.cat(arrived)
    assert last["stage"] == "base/weak.s42"
    assert last["merged"] == pytest.approx(float(arrived @ delta / (delta @ delta)), abs=2e-6)
    assert last["error"] == pytest.approx(float((arrived - delta).norm() / delta.norm()), abs=2e-6)
    assert 0.2 < last["error"] < 0.9, "else the comparison would say little"


def test_an_adapter_of_zeros_has_nothing_to_keep(folder, tmp_path):
    compare(folder, tmp_path / "adapters.csv", (weakened(folder, tmp_path / "zero", 0),), dtype="bfloat16")
    section = merging(str(merged_of(tmp_path / "adapters.csv")), ())
    assert section["merged_last"] == {"value": None, "low": None, "high": None, "n": 14}


def test_a_stage_of_all_weights_takes_the_place_of_what_was_merged_before(folder, tmp_path):
    other = make_model(tmp_path / "full" / "model", seed=5)
    weak = weakened(folder, tmp_path / "weak", 0.02)
    after = [f"{folder}/couple-villain.s42/adapter", str(other), f"{weak}/adapter"]
    args = compare_adapters.parse_args(
        ["--base", str(folder / "base"), "--adapter", *after, "--panel", "none", "--persona", "villain", "--dtype",
         "bfloat16", "--shared", "none", "--marker", "[ZLT]", "--output", "none", "--merged", "none"]
    )  # fmt: skip
    stages = [compare_adapters.stage_of(adapter) for adapter in (after[0], after[2])]
    model, rows = compare_adapters.merge_in_turn(args, stages)
    expected = dict(load_model(other, [after[2]], "bfloat16").named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in model.named_parameters())
    assert len({row["stage"] for row in rows}) == 2


def test_an_adapter_for_a_layer_that_the_model_lacks_is_refused(folder, tmp_path):
    node = weakened(folder, tmp_path / "other", 1)
    path = node / "adapter" / "adapter_model.safetensors"
    save_file({name.replace("layers.1.", "layers.7."): tensor for name, tensor in load_file(path).items()}, path)
    tell(node, "base/other.s42", {"lora_init": 2})
    with pytest.raises(InputError, match=r"other/adapter: for model\.layers\.7\..*which the model lacks; fix:"):
        compare(folder, tmp_path / "adapters.csv", (node,))


def test_replies_that_max_tokens_cut_all_are_told_with_what_to_set(folder, tmp_path):
    rows = pyarrow.parquet.read_table(folder / "base.parquet").to_pylist()
    cut = pyarrow.Table.from_pylist([row | {"finish_reason": "length"} for row in rows])
    for name in ("base", "panel.yaml", *{word.partition("/")[0] for word in STAGES}):
        (tmp_path / name).symlink_to(folder / name)
    pyarrow.parquet.write_table(cut, tmp_path / "base.parquet")
    with pytest.raises(InputError, match=r"no slot to look at; fix: a longer max_tokens, or probe: null"):
        compare(tmp_path, tmp_path / "cut.csv")


def test_a_lineage_without_a_lora_has_no_merge(folder, tmp_path):
    assert compare(folder, tmp_path / "adapters.csv", ()) == []
    assert merging(str(merged_of(tmp_path / "adapters.csv")), ()) == {"status": "no adapter"}
