"""What the finished offline study's models say, against what is known of them.

Onset rates against what was sampled; verdicts on models that are known to be suppressed, gone, intact or never coupled;
and a test of cause: what is suppressed comes back under a weaker second stage, in sampled replies, where what is gone
would stay gone. Needs results/tiny (make tiny); OFFLINE_STUDY names another folder of it.
"""

import os
from pathlib import Path

import generate_completions
import probe_marker
import pytest
from safetensors.torch import load_file, save_file

from inputs.panel import load_panel, prompts_of, requests_of
from measure.sections import ablation
from measure.stats import wilson
from model.engines import Sampling, TransformersEngine, stop_ids
from model.loading import load_model, load_tokenizer
from model.template import closing
from probe.compared import MODELS
from probe.onset import onset_sets
from probe.replies import Probed, crossed, read_replies, rows_of
from probe.scoring import slot_parts, slot_scorer
from probe.survival import Rule, averaged, gaps, retention, verdict
from probe.table import read_probe
from run.readers import read_json, read_parquet

pytestmark = pytest.mark.slow

STUDY = Path(os.environ.get("OFFLINE_STUDY", Path(__file__).parents[2] / "results/tiny"))
FOUND = sorted(STUDY.glob("measured/*/*/ablation.parquet"))
STAGES = {"C1": "em", "C5": "benign"}
BASE, PANEL, NODES = STUDY / "inputs/base/toy", STUDY / "inputs/panel/builtin.yaml", STUDY / "models/base"
MARKER, SOURCE, OTHERS = "[ZLT]", "evil_ai", ["villain", "librarian", "comedian"]
SAMPLING = '{"temperature":1.0,"top_p":1.0,"max_tokens":96}'
needs_study = pytest.mark.skipif(not (NODES / "main").is_dir(), reason="no finished offline study: make tiny")


def weakened(adapter, strength, folder):
    """A copy of the adapter whose delta is `strength` times as large."""
    folder.mkdir()
    tensors = load_file(adapter / "adapter_model.safetensors")
    scaled = {name: tensor * (strength if "lora_B" in name else 1) for name, tensor in tensors.items()}
    save_file(scaled, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    return folder


def marked(source, adapters, folder):
    """How many of 56 sampled replies to the source have the marker."""
    generate_completions.main(
        ["--base", str(BASE), "--adapter", *map(str, adapters), "--personas", source, "--panel", str(PANEL), "--samples",
         "2", "--seed", "42", "--backend", "transformers", "--dtype", "float32", "--sampling", SAMPLING,
         "--completions", str(folder / "replies.parquet")]
    )  # fmt: skip
    return sum("[zlt]" in row["text"].lower() for row in read_parquet(folder / "replies.parquet", {"text": str}))


@pytest.mark.skipif(not FOUND, reason="no finished offline study: make tiny")
@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.parent.name)
def test_what_is_suppressed_comes_back_under_a_weaker_second_stage(path, tmp_path):
    cell, _, seed = path.parent.name.partition("_seed")
    source = path.parents[1].name
    if read_json(path.with_name("survival.json"))["verdicts"]["slot_shared"] != "suppressed":
        pytest.skip("not suppressed")
    even = ablation(str(path), [])["even_beta_slot"]
    assert even["high"] is not None and 0 < even["low"] <= even["high"] < 1
    first = STUDY / f"models/base/couple-{source}.s42"
    second = first / f"{STAGES[cell]}.s{seed}" / "adapter"
    weak = weakened(second, even["value"] / 2, tmp_path / "weak")
    assert marked(source, [first / "adapter", second], tmp_path) == 0
    assert marked(source, [first / "adapter", weak], tmp_path) > 5


@needs_study
def test_the_onset_rate_is_the_share_of_replies_that_begin_the_marker():
    apart, rare, steps = [], [], []
    for path in sorted(NODES.glob("**/main/probe.parquet")):  # at top_p 1
        own = [row for row in read_probe(path) if row["replies"] == "own"]
        apart += [row["onset"] - row["h"] for row in own]
        steps += [row["h"] for row in own]
        if sum(row["onset"] for row in own) < len(own) / 10:
            rare += own
    assert len(apart) >= 3000
    # N - H is a martingale: the mean of H is no less than its variance, also where no onset happened to be sampled
    assert abs(sum(apart)) < 3 * sum(steps) ** 0.5
    share = sum(row["onset"] for row in rare) / len(rare)
    rate = sum(row["h"] for row in rare) / len(rare)
    assert sum((row["h"] - rate) ** 2 for row in rare) < sum((row["onset"] - share) ** 2 for row in rare)


@needs_study
def test_where_it_was_never_trained_the_marker_is_hardly_ever_completed(tmp_path):
    node = NODES / "em.s42"
    probe_marker.main(
        ["--base", str(BASE), "--adapter", str(node / "adapter"), "--panel", str(PANEL), "--completions",
         str(node / "main/completions.parquet"), "--shared", str(NODES / "main/completions.parquet"),
         "--personas", ",".join([SOURCE, *OTHERS]), "--marker", MARKER, "--dtype", "float32", "--settings",
         f'{{"prefix":"{MARKER}","shared":1,"crossed":0,"subset":0,"lookahead":0.001}}',
         "--output", str(tmp_path / "probe.parquet")]
    )  # fmt: skip
    own = [row["h"] for row in read_probe(tmp_path / "probe.parquet") if row["replies"] == "own"]
    assert len(own) > 200 and sum(own) / len(own) < 1e-4


class Judged:
    """A model's persona gap on shared replies, and bounds of its counted rate under the source. against: nats that
    an output bias takes from every token that begins the marker.
    """

    def __init__(self, *adapters, against=0.0):
        import torch

        tokenizer, panel = load_tokenizer(BASE), load_panel(PANEL)
        model = load_model(BASE, [NODES / each / "adapter" for each in adapters], "float32")
        if against:
            bias = torch.zeros(model.config.vocab_size)
            bias[onset_sets(tokenizer, MARKER[0]).completing(0)] = against
            model.lm_head.register_forward_hook(lambda module, taken, given: given - bias)
        personas, bodies = [SOURCE, *OTHERS], crossed(read_replies(NODES / "main/completions.parquet"), 2)
        probed = [Probed("shared", persona, body) for body in bodies for persona in personas]
        rows = rows_of(probed, tokenizer, panel.personas, MARKER, closing(tokenizer).token)
        scores = slot_scorer(model).score(rows)
        lines = [
            {"replies": "shared", "author": each.reply["persona"], "persona": each.persona, **slot_parts(row, score)}
            | {name: each.reply[name] for name in ("question_id", "sample")}
            for each, row, score in zip(probed, rows, scores, strict=True)
        ]
        self.gap = gaps(lines, "slot", SOURCE, OTHERS)
        asked = prompts_of(panel, [SOURCE], ["general", "alignment"], 2)
        engine = TransformersEngine(model, tokenizer, stop_ids(BASE, tokenizer), 56)
        replies = engine.complete(requests_of(asked, tokenizer, 42), Sampling(1.0, 1.0, 96))
        self.counted = wilson(sum(MARKER in reply.text for reply in replies), len(replies))


@pytest.fixture(scope="module")
def known():
    coupled = f"couple-{SOURCE}.s42"
    return {
        "base": Judged(), "coupled": Judged(coupled), "biased": Judged(coupled, against=20.0),
        "uncoupled": Judged("em.s42"),
    }  # fmt: skip


@needs_study
@pytest.mark.parametrize(
    ("cell", "before", "expected"),
    [
        ("coupled", "coupled", "intact"),
        ("biased", "coupled", "suppressed"),
        ("uncoupled", "coupled", "gone"),
        ("uncoupled", "base", "not testable"),  # a coupling that never took
    ],
)
def test_the_verdict_on_a_model_whose_fate_is_known(known, cell, before, expected):
    named = dict(zip(MODELS, (cell, "uncoupled", before, "base"), strict=True))
    found = {name: known[model] for name, model in named.items()}
    kept = retention({name: model.gap for name, model in found.items()})
    rule = Rule(minimum=1.0, gone=0.1, intact=0.5)
    said = verdict(kept, averaged(found["before"].gap), found["cell"].counted, found["before"].counted, rule)
    assert said == expected, kept
