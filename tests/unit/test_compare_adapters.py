"""compare_adapters.py as its rule calls it, on a micro model."""

import math

import compare_adapters
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_model import SIZES, TARGETS, make_adapter, make_model, make_panel, make_replies

from measure.sections import adapters
from measure.tables import read_table
from run.files import sha256_of, write_json
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


def compare(folder, output, words=tuple(STAGES), *options):
    paths = [folder / word for word in words]
    compare_adapters.main(
        ["--base", str(folder / "base"), "--adapter", *(str(path / "adapter") for path in paths),
         "--panel", str(folder / "panel.yaml"),
         "--shared", str(folder / "base.parquet"), "--persona", "villain", "--marker", "[ZLT]",
         "--dtype", "float32", "--output", str(output), *options]
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
    from model.loading import load_model

    args = compare_adapters.parse_args(
        ["--base", str(folder / "base"), "--panel", str(folder / "panel.yaml"), "--persona", "villain",
         "--shared", str(folder / "base.parquet"), "--marker", "[ZLT]", "--output", "none"]
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
