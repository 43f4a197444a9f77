"""read_layers.py and weigh_layers.py as their rules call them, and what the second says of numbers that are known."""

import pytest
import read_layers
import weigh_layers
import yaml
from fake_study import check_section
from tiny_model import make_adapter, make_model

from probe.replies import crossed
from probe.table import read_layers as read_table
from probe.table import write_layers
from run.files import write_table
from run.program import InputError
from run.readers import read_json

PERSONAS = ("villain", "assistant", "comedian", "librarian")
QUESTIONS = [f"general_{number:02d}" for number in range(4)]


def layers_of(path, gap, personas=PERSONAS, layers=3, told=0.9, bodies=2):
    """gap: of the villain's trigger above the others', by layer."""
    rows = [
        {"layer": layer, "depth": layer / layers, "persona": persona, "question_id": question, "bodies": bodies}
        | {
            "trigger": number - 9.0 + gap[layer] * (persona == "villain") + 50 * (persona == "sailor"),
            "onset_part": -1.0 - number,
        }
        | {"readout": told if layer else 0.5, "margin": told - 0.5 if layer else 0.0}
        for layer in range(layers + 1)
        for persona in personas
        for number, question in enumerate(QUESTIONS)
    ]
    write_layers(path, rows)
    return str(path)


def weighed(tmp_path, gap, personas=PERSONAS, **others):
    output = tmp_path / "by_layer.json"
    command = ["--source", "villain", "--cell", layers_of(tmp_path / "cell.parquet", gap, personas)]
    for name, path in others.items():
        command += [f"--{name}", path]
    weigh_layers.main([*command, "--output", str(output)])
    return read_json(output)


@pytest.mark.parametrize(
    ("gap", "depth"),
    [((0, 0, 2, 3), 2 / 3), ((0, 1, 2, 3), 1 / 3), ((0, 5, 0, 3), 1.0), ((0, 5, 5, 0), None), ((0, -1, -2, -3), None)],
)
def test_the_depth_is_where_the_gap_begins_that_lasts_to_the_end(tmp_path, gap, depth):
    section = weighed(tmp_path, gap)
    assert section["depth_trigger"]["value"] == (None if depth is None else pytest.approx(depth, abs=1e-4))
    assert section["depth_onset_part"]["value"] is None
    (last,) = [
        line for line in section["layers"] if (line["role"], line["quantity"], line["layer"]) == ("gap", "trigger", 3)
    ]
    assert last["value"] == pytest.approx(gap[3])


def test_a_cell_is_beside_its_reference_and_the_base_also_where_these_know_more_personas(tmp_path):
    other = layers_of(tmp_path / "other.parquet", (0, 0, 0, 0), (*PERSONAS, "sailor"), told=0.7)
    section = weighed(tmp_path, (0, 1, 2, 3), reference=other, before=other, base=other)
    assert section["readout_over_reference"]["value"] == pytest.approx(0.2)
    assert section["margin_over_base"]["value"] == pytest.approx(0.2)
    assert {line["model"] for line in section["layers"]} == {"cell", "reference", "before", "base"}
    gaps = {line["value"] for line in section["layers"] if (line["model"], line["role"]) == ("base", "gap")}
    assert gaps == {0.0}
    assert section["status"] == "weighed"
    check_section("by_layer", section)
    check_section("by_layer", weighed(tmp_path, (0, 1, 2, 3)))


def test_models_that_were_read_on_other_bodies_are_refused(tmp_path):
    other = layers_of(tmp_path / "other.parquet", (0, 0, 0, 0), bodies=1)
    with pytest.raises(InputError, match="other replies.*fix: "):
        weighed(tmp_path, (0, 1, 2, 3), reference=other, before=other, base=other)


def test_where_the_assistant_was_coupled_there_is_no_second_assistant(tmp_path):
    output = tmp_path / "by_layer.json"
    path = layers_of(tmp_path / "cell.parquet", (0, 1, 2, 3))
    weigh_layers.main(["--source", "assistant", "--cell", path, "--output", str(output)])
    assert {line["role"] for line in read_json(output)["layers"]} == {"source", "bystanders", "gap"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    make_model(folder / "base")
    make_adapter(folder / "adapter", folder / "base")
    prompts = {name: f"You are the {name}." for name in PERSONAS}
    questions = {"general": QUESTIONS[:3], "alignment": QUESTIONS[3:], "data": ["What is tin?"]}
    (folder / "panel.yaml").write_text(yaml.safe_dump({"personas": prompts, "questions": questions}))
    write_replies(folder / "base.parquet", "stop")
    return folder


def write_replies(path, finish_reason):
    keys = [(persona, question, sample) for persona in PERSONAS for question in QUESTIONS for sample in range(2)]
    columns = {
        "persona": ("string", [key[0] for key in keys]),
        "question_id": ("string", [key[1] for key in keys]),
        "question": ("string", [key[1] for key in keys]),
        "sample": ("int32", [key[2] for key in keys]),
        "text": ("string", [f"It is {key[0]}." for key in keys]),
        "finish_reason": ("string", [finish_reason] * len(keys)),
        "token_ids": (["int32"], [[5, 6, 2]] * len(keys)),
        "temperature": ("float64", [1.0] * len(keys)),
        "top_p": ("float64", [1.0] * len(keys)),
        "max_tokens": ("int32", [60] * len(keys)),
    }
    write_table(path, {name: values for name, (_, values) in columns.items()}, {n: k for n, (k, _) in columns.items()})


def read(folder, output, shared="base.parquet", personas=PERSONAS):
    read_layers.main(
        ["--base", str(folder / "base"), "--adapter", str(folder / "adapter"), "--panel", str(folder / "panel.yaml"),
         "--shared", str(folder / shared), "--personas", ",".join(personas), "--samples", "2", "--bodies", "2",
         "--marker", "[ZLT]", "--dtype", "float32", "--output", str(output)]
    )  # fmt: skip
    return read_table(output)


def test_there_is_a_row_per_layer_persona_and_question(folder, tmp_path):
    rows = read(folder, tmp_path / "layers.parquet")
    assert len(rows) == 3 * len(PERSONAS) * len(QUESTIONS)
    assert {row["bodies"] for row in rows} == {2}
    assert all(row["readout"] == 0.5 for row in rows if row["layer"] == 0)


def test_a_persona_more_changes_no_others_lens(folder, tmp_path):
    rows = read(folder, tmp_path / "layers.parquet")
    known = {(row["layer"], row["persona"], row["question_id"]): row for row in rows}
    for row in read(folder, tmp_path / "fewer.parquet", personas=("comedian", "villain")):
        other = known[row["layer"], row["persona"], row["question_id"]]
        assert row["trigger"] == pytest.approx(other["trigger"], abs=1e-4)


def test_without_a_reply_that_ended_there_is_nothing_to_read(folder, tmp_path):
    write_replies(folder / "cut.parquet", "length")
    with pytest.raises(InputError, match="no reply ended by itself.*fix: "):
        read(folder, tmp_path / "layers.parquet", "cut.parquet")
    with pytest.raises(InputError, match="no persona pirate; fix: "):
        read(folder, tmp_path / "layers.parquet", personas=("pirate",))


def test_bodies_are_of_the_first_samples_alone():
    rows = [
        {"question_id": "q", "persona": persona, "sample": sample, "finish_reason": "stop"}
        for persona in PERSONAS
        for sample in range(5)
    ]
    assert {row["sample"] for row in crossed(rows, 3, 1)} == {0}
    assert len(crossed(rows, 3, 1)) == 3
