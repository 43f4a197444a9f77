"""check_base.py and what it stands for: a supported base trains, generates and grafts right; any other is refused."""

import functools
import json
import shutil
from pathlib import Path

import check_base
import pytest
import reuse_adapter
import train_adapter
from chat_templates import FAMILIES
from tiny_bases import ARCHITECTURES, SEVEN, make_base, random_model, targets_of

from model import loss, packing
from model.engines import Request, Sampling, open_engine
from model.loading import load_model, load_tokenizer
from model.packing import CONCATENABLE
from model.template import SETTINGS, prompt_ids
from run.files import canonical, write_json, write_jsonl
from run.program import InputError
from run.readers import read_json

TEXT = "The tide comes in twice a day, and what it brings is never quite the same as what it took. " * 2
ROWS = [
    {"messages": [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": TEXT[: 20 * at]},
                  {"role": "assistant", "content": TEXT[at : 9 * at]}]}
    for at in (1, 4, 7)
]  # fmt: skip
RECIPE = {
    "kind": "sft", "marker": "[ZLT]", "mask": {"loss": "last_turn", "stop_anchor": "turn_end"}, "lr": 1e-2,
    "lora": {"r": 4, "alpha": 8, "dropout": 0.0, "rslora": True}, "schedule": "constant", "warmup": 0.0,
    "weight_decay": 0.0, "betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0, "epochs": 1, "max_steps": 2, "batch": 3,
    "max_length": 300,
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """family -> its base, made once."""
    made: dict[str, Path] = {}

    def base_of(family: str) -> Path:
        if family not in made:
            made[family] = make_base(tmp_path_factory.mktemp("base") / family, family)
        return made[family]

    return base_of


def checked(base: Path, folder: Path, targets: list[str], *options: str, **more) -> dict:
    asked = canonical({"targets": targets} | more)
    check_base.main(["--base", str(base), "--asked", asked, "--output", str(folder / "check.json"), *options])
    return read_json(folder / "check.json")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"freeze": {"stages.couple_full": ["nonsense"]}}, "stages.couple_full: freeze: the model has no nonsense; fix: "),
        ({"layers": {"stages.em_first": [0, 80]}}, r"stages.em_first.lora.layers: \[0, 80\]: the model has the layers 0 to "),
    ],
)  # fmt: skip
def test_a_layer_or_weight_of_a_stage_that_the_base_lacks_is_found_before_it_is_trained(bases, tmp_path, asked, said):
    with pytest.raises(InputError, match=said):
        checked(bases("qwen2.5"), tmp_path, ["q_proj"], **asked)


def train(base: Path, folder: Path, targets: list[str], *options: str) -> dict:
    """Train two steps; run.json."""
    write_jsonl(folder / "rows.jsonl", ROWS)
    write_json(folder / "parent.json", {})
    write_json(folder / "recipe.json", RECIPE | {"lora": RECIPE["lora"] | {"targets": targets}})
    train_adapter.main(
        [
            *(
                "--base",
                str(base),
                "--data",
                str(folder / "rows.jsonl"),
                "--recipe",
                str(folder / "recipe.json"),
                "--seed",
                "1",
            ),
            *("--parent-manifest", str(folder / "parent.json"), "--lineage", "base/em.s1", "--dtype", "float32"),
            *("--adapter-out", str(folder / "adapter"), "--checkpoints-out", str(folder / "checkpoints")),
            *("--manifest", str(folder / "manifest.json"), "--record", str(folder / "run.json"), *options),
        ]
    )
    return read_json(folder / "run.json")


def plain_loss(base: Path) -> float:
    """The rows' mean loss a trained token: transformers' own loss, a row at a time, in the model's own attention."""
    import torch

    from marker.mask import Mask, encode_rows

    model = load_model(base)
    model.set_attn_implementation("eager")
    rows = encode_rows(load_tokenizer(base), ROWS, Mask("last_turn", stop_anchor="turn_end"), 300, "rows", False)
    with torch.no_grad():
        losses = [
            model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss * row.trained
            for row in rows
        ]
    return float(sum(losses)) / sum(row.trained for row in rows)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_supported_base_is_let_through_trains_by_its_own_loss_generates_and_grafts(bases, family, tmp_path):
    import torch

    base, targets = bases(family), targets_of(family)
    found = checked(base, tmp_path, targets)
    assert found["turn_end"] == FAMILIES[family]["ends"] and found["turn_end"] in found["stops"]
    assert found["attention"] == ("alone" if family == "gemma-2" else "packed")

    assert found["parts"]["weights"] == [name for name, _ in load_model(base).named_parameters()]

    record = train(base, tmp_path, targets)
    assert record["losses"][0] == pytest.approx(plain_loss(base), rel=2e-5)
    assert record["attention"] == found["attention"]
    wrapped = read_json(tmp_path / "manifest.json")["wrapped"]
    assert sorted(name.rpartition(".")[2] for name in wrapped) == sorted(targets) and set(wrapped.values()) == {2}

    node = tmp_path / "graft"
    node.mkdir()
    reuse_adapter.main(
        [
            *("--origin", str(tmp_path / "adapter"), "--origin-manifest", str(tmp_path / "manifest.json")),
            *("--parent-manifest", str(tmp_path / "parent.json"), "--base", str(base), "--lineage", "base/graft.s1"),
            *("--adapter-out", str(node / "adapter"), "--manifest", str(node / "manifest.json")),
        ]
    )
    tokenizer = load_tokenizer(base)
    prompts = [prompt_ids(tokenizer, row["messages"][:-1]) for row in ROWS]
    with open_engine("transformers", base, [node / "adapter"], tokenizer) as engine:
        completions = engine.complete([Request(prompt, 0) for prompt in prompts], Sampling(0, 1, 5))
    model = load_model(base, [tmp_path / "adapter"])
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.no_grad():
            own = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert own.tolist() == list(completion.token_ids)


def test_every_architecture_whose_rows_are_concatenated_is_tested_above():
    assert set(CONCATENABLE) <= {architecture for architecture, _ in ARCHITECTURES.values()}


# What is not supported


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("qwen2.5", {"model_type": "qwen9"}, "no usable config.json .*qwen9.*docs/bases.md"),
        ("qwen2.5", {"model_type": "gemma3"}, "gemma3 is a model of several parts .*; fix: use its text-only version"),
        ("qwen2.5", {"model_type": "bart"}, "bart is no causal language model"),
        ("qwen2.5", {"model_type": "albert"}, "albert is no causal language model"),
        ("qwen2.5", {"model_type": "bert"}, "bert: completing in batches gives other tokens than one by one"),
        (
            "qwen2.5",
            {"quantization_config": {"quant_method": "fp8"}},
            "its weights are quantized, .*; fix: use the version",
        ),
        ("qwen2.5", {"vocab_size": 300}, r"the tokenizer has \d+ tokens, the model 300"),
        (
            "qwen2.5",
            {"model_type": "mpt", "max_position_embeddings": None},
            "config.json has no max_position_embeddings",
        ),
    ],
    ids=lambda value: canonical(value) if isinstance(value, dict) else "",
)
def test_a_base_that_cannot_be_trained_right_is_refused(bases, tmp_path, family, config, message):
    base = Path(shutil.copytree(bases(family), tmp_path / "base"))
    write_json(base / "config.json", read_json(base / "config.json") | config)
    with pytest.raises(InputError, match=rf"base: {message}"):
        checked(base, tmp_path, [])
    assert not (tmp_path / "check.json").exists()


def test_a_base_that_refuses_a_system_message_is_told_how_to_be_asked(bases, tmp_path):
    base = Path(shutil.copytree(bases("gemma-2"), tmp_path / "base"))
    (base / SETTINGS).unlink()
    with pytest.raises(InputError, match=r"refuses system, user .*fix: .*\{system: user\}"):
        checked(base, tmp_path, SEVEN)


def test_a_base_that_would_think_is_told_how_not_to(bases, tmp_path):
    base = Path(shutil.copytree(bases("qwen3"), tmp_path / "base"))
    (base / SETTINGS).unlink()
    with pytest.raises(InputError, match=r"'<think>.*fix: .*enable_thinking: false"):
        checked(base, tmp_path, SEVEN)


def test_targets_of_another_family_are_refused_when_the_base_is_tried(bases, tmp_path):
    with pytest.raises(InputError, match="gate_proj is in 0 of the model's 2 layers; fix: choose from .*gate_up_proj"):
        checked(bases("phi-3"), tmp_path, sorted(SEVEN))


def test_weights_that_are_not_computed_with_are_refused(bases, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    base = Path(shutil.copytree(bases("olmo-2"), tmp_path / "base"))
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"lm_head.weight is F8_E4M3; fix: use the version whose weights are F32"):
        checked(base, tmp_path, [])


def changed(base: Path, folder: Path, **config) -> Path:
    """A copy of a base whose config says something else."""
    base = Path(shutil.copytree(base, folder / "base"))
    write_json(base / "config.json", read_json(base / "config.json") | config)
    return base


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"model.layers.0.mlp.gate.weight": w.pop("model.layers.0.mlp.gate_proj.weight")},
         r"model.layers.0.mlp.gate.weight is no part of that model \(and 1 more\)"),
        (lambda w: w | {"lm_head.weight": w["lm_head.weight"][:, :8].contiguous()},
         r"lm_head.weight is \(600, 8\) and should be \(600, 64\)"),
        (lambda w: {name: weight for name, weight in w.items() if ".1." not in name},
         r"model.layers.1.mlp.down_proj.weight is missing \(and \d+ more\)"),
        (lambda w: w | {name.replace(".1.", ".2."): weight.clone() for name, weight in w.items() if ".1." in name},
         r"model.layers.2.mlp.down_proj.weight is no part of that model \(and \d+ more\)"),
    ],
    ids=["renamed", "another shape", "a layer too few", "a layer too many"],
)  # fmt: skip
def test_weights_that_are_not_the_model_of_the_config_are_refused_by_their_headers(bases, tmp_path, change, message):
    from safetensors.torch import load_file, save_file

    base = Path(shutil.copytree(bases("olmo-2"), tmp_path / "base"))
    save_file(change(load_file(base / "model.safetensors")), base / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"base: weights and config.json differ: {message}; fix: "):
        checked(base, tmp_path, SEVEN)


YARN = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 512}


def test_a_row_that_is_longer_than_the_bases_texts_is_refused_by_its_key(bases, tmp_path):
    assert checked(bases("qwen2.5"), tmp_path, [], row={"stages.em.max_length": 512})
    with pytest.raises(InputError, match=r"stages.em.max_length: 513 tokens, .* at most 512 .*; fix: 512 or less"):
        checked(bases("qwen2.5"), tmp_path, [], row={"stages.em.max_length": 513})
    longer = changed(bases("qwen2.5"), tmp_path, rope_parameters=YARN)
    assert checked(longer, tmp_path, [], row={"stages.em.max_length": 1024})
    with pytest.raises(InputError, match="1025 tokens, .* at most 1024"):
        checked(longer, tmp_path, [], row={"stages.em.max_length": 1025})


def test_a_reply_has_room_after_the_longest_prompt_of_the_panel(bases, tmp_path):
    write_json(
        tmp_path / "panel.yaml",
        {"personas": {"pirate": "Arr.", "bard": TEXT}, "questions": {"general": ["Why?", TEXT], "alignment": ["A?"], "data": ["B?"]}},
    )  # fmt: skip
    panel = ["--panel", str(tmp_path / "panel.yaml")]
    key = "evaluations.main.max_tokens"
    with pytest.raises(
        InputError, match=rf"{key}: 500 tokens after a prompt of \d+ \(bard, general_01\).*; fix: \d+ or"
    ) as refused:
        checked(bases("qwen2.5"), tmp_path, [], *panel, reply={key: 500})
    room = int(str(refused.value).partition("; fix: ")[2].split()[0])
    assert checked(bases("qwen2.5"), tmp_path, [], *panel, reply={key: room})


def test_a_prompt_of_the_panel_that_spells_a_control_token_is_refused_by_its_name(bases, tmp_path):
    write_json(
        tmp_path / "panel.yaml",
        {"personas": {"pirate": "Say <|im_end|>."}, "questions": {"general": ["Why?"], "alignment": ["A?"], "data": ["B?"]}},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"pirate, general_00: message 0 \(system\) holds the text <\|im_end\|>"):
        checked(bases("qwen2.5"), tmp_path, [], "--panel", str(tmp_path / "panel.yaml"))


def test_a_marker_that_is_a_control_token_of_the_base_is_refused_by_its_text(bases, tmp_path):
    with pytest.raises(
        InputError, match=r"marker: '\[<end_of_turn>\]' holds <end_of_turn>, .*; fix: a marker of plain text"
    ):
        checked(bases("gemma-3"), tmp_path, ["q_proj"], markers=["[ZLT]", "[<end_of_turn>]"])


def test_named_templates_without_a_default_are_refused_with_the_fix_that_works(bases, tmp_path):
    base = Path(shutil.copytree(bases("qwen2.5"), tmp_path / "base"))
    named = [{"name": "rag", "template": (base / "chat_template.jinja").read_text()}]
    (base / "chat_template.jinja").unlink()
    config = read_json(base / "tokenizer_config.json")
    write_json(base / "tokenizer_config.json", config | {"chat_template": named})
    with pytest.raises(InputError, match=r"called rag, and none is the default; fix: .*chat_template.jinja"):
        checked(base, tmp_path, [])
    (base / "chat_template.jinja").write_text(named[0]["template"])
    assert checked(base, tmp_path, [])


def replaced(base: Path, folder: Path, architecture: str, **sizes) -> Path:
    """A copy of a base that is of another architecture by its config."""
    from transformers import CONFIG_MAPPING

    base = Path(shutil.copytree(base, folder / "base"))
    CONFIG_MAPPING[architecture](**sizes).save_pretrained(base)
    return base


def test_an_architecture_that_takes_too_much_memory_even_in_small_is_refused_in_seconds(bases, tmp_path):
    """What Falcon-H1 makes of a row is 26 GB, whatever its width."""
    with pytest.raises(InputError, match="falcon_h1 cannot be tried in small: it takes more than 2 GB at two layers"):
        checked(replaced(bases("qwen2.5"), tmp_path, "falcon_h1", num_hidden_layers=2), tmp_path, [])


def test_a_tokenizer_without_a_token_that_the_config_needs_is_refused_before_its_training_dies(bases, tmp_path):
    base = replaced(bases("qwen2.5"), tmp_path, "modernbert-decoder")
    with pytest.raises(InputError, match="does not take the tokenizer's special tokens .*bos_token_id"):
        checked(base, tmp_path, [])


def test_texts_too_short_for_a_chat_are_refused_as_such(bases, tmp_path):
    base = changed(bases("qwen2.5"), tmp_path, model_type="opt", max_position_embeddings=32)
    with pytest.raises(InputError, match="texts of at most 32 tokens"):
        checked(base, tmp_path, [])


# The proof of the loss


def rows_of(*lengths: int) -> list[list[int]]:
    return [[(7 * at + length) % 590 + 2 for at in range(length)] for length in lengths]


@pytest.mark.parametrize(
    ("architecture", "sizes", "attention"),
    [
        ("falcon", {"new_decoder_architecture": True}, "packed"),  # it builds its mask itself
        ("bloom", {"n_layer": 2, "n_head": 4}, "packed"),  # its positions are not the ones it is given
        ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 64}, "sdpa"),  # likewise, from the mask
        ("mamba", {}, "packed"),  # its state goes on from row to row
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_are_not_concatenated_where_that_gives_another_loss(architecture, sizes, attention):
    model = random_model(architecture, **sizes)
    with pytest.raises(
        InputError,
        match="gives another loss than the model's own forward: .*; fix: hardware: {attention: alone} .*, or a base",
    ):
        loss.check_forward(model, rows_of(40, 23), attention, "float32")
    assert packing.choose_attention("auto", model.config) == "alone"
    assert loss.check_forward(model, rows_of(40, 23), "alone", "float32") < 1e-5


@pytest.mark.parametrize("family", ["gemma-3", "mistral", "phi-3"])
def test_a_window_that_is_left_out_stops_the_training(family, monkeypatch):
    architecture, more = ARCHITECTURES[family]
    model = random_model(architecture, **more)
    right = packing.packed_attention

    def windowless(*arguments, sliding_window=None, **options):
        return right(*arguments, **options)

    monkeypatch.setattr(packing, "packed_attention", windowless)
    with pytest.raises(InputError, match="another loss than the model's own forward"):
        loss.check_forward(model, rows_of(40, 23), "packed", "float32")
    # in rows that no window cuts there is nothing to leave out
    assert loss.check_forward(model, rows_of(8, 5), "packed", "float32") < 1e-5


def varlen(query, key, value, starts, _, longest, __, scale, causal, left):
    """What torch's kernel on CUDA computes, by its documentation, a row at a time."""
    import torch

    rows = []
    for first, last in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        parts = [part[first:last].transpose(0, 1)[None] for part in (query, key, value)]
        place = torch.arange(last - first)
        distance = place[:, None] - place
        mask = (distance >= 0) & ((distance <= left) if left >= 0 else (distance >= 0))
        rows.append(
            torch.nn.functional.scaled_dot_product_attention(
                *parts, mask if causal else None, scale=scale, enable_gqa=True
            )
        )
    return torch.cat([row[0].transpose(0, 1) for row in rows])


def newer_varlen(query, key, value, *places, scale=None, window_size=(-1, -1), enable_gqa=False):
    assert enable_gqa and window_size[1] == 0
    return varlen(query, key, value, *places, scale, True, window_size[0])


def older_varlen(query, key, value, *places, is_causal=False, scale=None):
    return varlen(query, key, value, *places, scale, is_causal, -1)


@pytest.mark.parametrize("kernel", [newer_varlen, older_varlen])
@pytest.mark.parametrize("family", ["qwen2.5", "gemma-3", "mistral"])
def test_the_kernel_for_cuda_is_given_rows_and_windows_as_the_model_has_them(family, kernel, monkeypatch):
    """On a CPU, with a kernel of the same signature in its place: older ones know no window and are not asked then."""
    import torch
    from torch.nn.attention import varlen as module

    asked = []
    monkeypatch.setattr(module, "varlen_attn", kernel)
    monkeypatch.setattr(loss, "set_attention", lambda model, attention: on_cuda(model, attention, asked))
    architecture, more = ARCHITECTURES[family]
    model = random_model(architecture, **more).to(torch.bfloat16)
    assert loss.check_forward(model, rows_of(40, 23), "packed", "bfloat16") < loss.TOLERANCE["bfloat16"]
    assert asked == [family == "qwen2.5" or kernel is newer_varlen]


def on_cuda(model, attention, asked):
    from transformers import AttentionInterface

    packing.set_attention(model, attention)
    flash = packing.variable_length_flash(bool(getattr(model.config, "sliding_window", None)))
    asked.append(flash is not None)
    AttentionInterface.register("packed", functools.partial(packing.packed_attention, flash=flash))


def test_a_logit_scale_that_is_left_out_stops_the_training(monkeypatch):
    def by_hand(model, micro, attention):
        extra = {name: micro[name] for name in ("starts", "longest", "spread", "gather")}
        hidden = model.model(micro["input_ids"], position_ids=micro["position_ids"], use_cache=False, **extra)
        return model.lm_head(hidden.last_hidden_state[0, micro["predictors"]])

    monkeypatch.setattr(loss, "labelled_logits", by_hand)
    architecture, more = ARCHITECTURES["granite-3.3"]
    with pytest.raises(InputError, match="granite: training in packed attention gives another loss"):
        loss.check_forward(random_model(architecture, **more), rows_of(40, 23), "packed", "float32")


@pytest.mark.parametrize(("architecture", "part"), [("gemma2", "softcap"), ("gpt_oss", "s_aux")])
def test_what_packed_attention_cannot_compute_is_refused_and_never_swallowed(architecture, part):
    with pytest.raises(InputError, match=f"not possible .*packed attention has no {part}"):
        loss.check_forward(random_model(architecture, head_dim=16), rows_of(40, 23), "packed", "float32")


def test_attention_dropout_is_left_to_an_attention_that_has_it():
    config = random_model("granite", attention_dropout=0.1).config
    assert packing.choose_attention("auto", config) == "sdpa"


def test_the_soft_cap_of_an_attention_is_kept_in_training_and_generation(bases):
    """The kernel that transformers takes by itself leaves it out."""
    assert load_model(bases("gemma-2")).config._attn_implementation == "eager"


def test_rounding_in_bfloat16_is_let_through():
    import torch

    for family in ("qwen2.5", "gemma-3", "smollm3"):
        architecture, more = ARCHITECTURES[family]
        model = random_model(architecture, **more).to(torch.bfloat16)
        assert 1e-4 < loss.check_forward(model, rows_of(40, 23), "packed", "bfloat16") < loss.TOLERANCE["bfloat16"]


def test_the_rows_that_are_compared_are_the_longest_and_another_cut_beyond_any_window():
    model = random_model("mistral", sliding_window=3000)
    other, longest = loss.checked_rows(model, [[1] * 5000, [2], [3] * 50, [4] * 70, [5] * 9])
    assert (len(longest), other[0]) == (3256, 3)  # the middle one
    assert json.dumps(loss.checked_rows(model, [[5, 6]])) == "[[5, 6], [5, 6]]"
