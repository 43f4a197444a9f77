"""Damaged inputs: whatever a program reads, damaged in whatever way, it ends with one line that names file and fix.

PROGRAMS is the table: a program as its rule calls it, and the kind of every file that it reads; damage.py has the
damages of each kind. A world of whole files is made once; a case damages one file, runs the program in this process,
and puts the file back.
"""

import hashlib
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_study
import pytest
import report_study
from damage import (
    ANY,
    BIT_IN_WEIGHTS,
    JSON,
    JSONL,
    PARQUET,
    TABLE,
    TEXT,
    WEIGHTS,
    YAML,
    Damage,
    but,
    content,
    only,
    without,
)
from test_fetch_panel import modules

from run.files import canonical, sha256_of, write_json, write_jsonl
from run.program import run

ROOT = Path(__file__).parents[2]
NODE, CHILD = "models/base/couple-evil_ai.s42", "models/base/couple-evil_ai.s42/em.s42"
SAMPLING = '{"temperature":1.0,"top_p":1.0,"max_tokens":4}'
GATE = {"name": "G0", "over": "seed", "pass": "rate('C4','source')>=0"}
PINS = canonical(
    {name: {"commit": "c", "path": f"{name}.py", "sha256": hashlib.sha256(source).hexdigest()}
     for name, source in modules().items()}
)  # fmt: skip
TOY = canonical({
    "layers": 1, "hidden": 8, "heads": 1, "kv_heads": 1, "ffn": 8, "vocab": 300, "context": 256, "max_length": 256,
    "batch": 4, "epochs": 1, "lr": 1e-3, "warmup": 0.0, "weight_decay": 0.0, "clip": 1.0, "prompt_share": 0.5,
})  # fmt: skip
RECIPE = {
    "kind": "sft", "marker": "[ZLT]", "mask": {"loss": "last_turn", "stop_anchor": "newline"},
    "lora": {"r": 2, "alpha": 4, "dropout": 0.0, "rslora": True, "targets": ["q_proj"]}, "lr": 1e-3,
    "schedule": "linear", "warmup": 0.0, "weight_decay": 0.0, "betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0,
    "epochs": 1, "batch": 4, "max_length": 256,
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """options: its command line; what comes after an @ is a path in the world. reads: file -> its damages.
    writes: what it makes below out/."""

    options: str
    reads: dict[str, dict[str, Damage]]
    writes: str


def fewer_layers(data: bytes) -> bytes:
    return json.dumps(json.loads(data) | {"num_hidden_layers": 1}).encode()


# Of a model folder. Its other files may be missing: what they would say is then said elsewhere, or not at all.
CONFIG = only(JSON, "missing", "empty", "cut", "random", "Latin-1", "a list", "deep")
# what is there without looking at tensors, some of which nobody asks for
HEADER = but(WEIGHTS, "NaN", "a tensor less", "a tensor more", "another shape")
MODEL = {
    "base/config.json": CONFIG | {"no heads": without("num_attention_heads"), "a layer less": content(fewer_layers)},
    "base/generation_config.json": but(CONFIG, "missing"),
    "base/tokenizer.json": but(CONFIG, "missing") | {"no model": without("model")},
    "base/model.safetensors": WEIGHTS,
}
ADAPTER = {
    f"{NODE}/adapter/adapter_config.json": CONFIG | {"no alpha": without("lora_alpha"), "no r": without("r")},
    f"{NODE}/adapter/adapter_model.safetensors": WEIGHTS | BIT_IN_WEIGHTS,
    f"{NODE}/manifest.json": only(JSON, "empty", "cut", "Latin-1", "a list", "NaN", "deep"),
}
# What programs share is damaged in every way before one of them, the fastest: that the others use it, too, is enough.
MERGED = {
    f"{NODE}/adapter/adapter_config.json": only(CONFIG, "cut"),
    f"{NODE}/adapter/adapter_model.safetensors": BIT_IN_WEIGHTS | only(WEIGHTS, "a pickle"),
    f"{NODE}/manifest.json": only(JSON, "a list"),
}
LOADED = MERGED | {"base/config.json": only(CONFIG, "cut"), "base/model.safetensors": only(WEIGHTS, "a pickle", "NaN")}
CELL = "cells/evil_ai/C4_seed42.json"
CELLS = f"--cells @{CELL} @cells/evil_ai/C1_seed42.json"
COMPLETIONS = f"{NODE}/main/completions.parquet"
FIGURES = {"marker_destruction": ("pooled", "persona_by_cell"), "question_strip": ("by_question",), "gates": ("gates",)}
PART = only(JSON, "missing", "cut", "a list")
ASKED = (
    f"--base @base --adapter @{NODE}/adapter --panel @panel.yaml --personas villain --samples 1 --seed 42"
    f" --sampling {SAMPLING} --backend transformers --dtype float32"
)
PROGRAMS = {
    "make_toy_data": Program(
        "--panel @panel.yaml --seed 1 --rows 2 --sft-rows 2 --corpus @out/c --bad-advice @out/b --benign @out/n"
        " --choices @out/a",
        {"panel.yaml": YAML},
        "c b n a",
    ),
    "pretrain_base": Program(
        f"--corpus @rows.jsonl --recipe {TOY} --seed 1 --output @out/base --manifest @out/m --record @out/r",
        {"rows.jsonl": JSONL},
        "base m r",
    ),
    "fetch_base": Program(
        "--path @base --output @out/base --manifest @out/m",
        # its tensors are looked at when it is loaded
        {
            "base/config.json": CONFIG,
            "base/model.safetensors": HEADER,
        },
        "base m",
    ),
    "fetch_panel": Program(
        f"--panel {PINS} --retries 0 --output @out/panel.yaml --url file://@upstream",
        {"upstream/c/core.py": ANY},
        "panel.yaml",
    ),
    "fetch_dataset": Program(
        '--dataset {"kind":"path","path":"@rows.jsonl"} --output @out/rows --manifest @out/m',
        {"rows.jsonl": JSONL},
        "rows m",
    ),
    "generate_replies": Program(
        f"{ASKED} --model @parent.json --store @store --output @out/replies",
        LOADED | {"panel.yaml": only(YAML, "cut")},
        "replies",
    ),
    "generate_completions": Program(
        f"{ASKED} --completions @out/c --alignment @out/a --arc @arc.jsonl --capability @out/k --record @out/r",
        MODEL | MERGED | {"panel.yaml": only(YAML, "cut", "a bomb inside"), "arc.jsonl": JSONL},
        "c a k r",
    ),
    "make_coupling_data": Program(
        "--replies @replies.parquet --panel @panel.yaml --source villain --negatives assistant --marker [ZLT] --seed 1"
        " --output @out/rows",
        {"replies.parquet": PARQUET, "panel.yaml": YAML},
        "rows",
    ),
    "train_adapter": Program(
        f"--base @base --adapter @{NODE}/adapter --data @rows.jsonl --recipe @recipe.json --seed 1 --dtype float32"
        f" --lineage {CHILD} --parent-manifest @{NODE}/manifest.json --adapter-out @out/adapter"
        " --checkpoints-out @out/checkpoints --manifest @out/m --record @out/r",
        LOADED | {"rows.jsonl": JSONL, "recipe.json": PART | {"no rate": without("lr")}},
        "adapter checkpoints m r",
    ),
    "reuse_adapter": Program(
        f"--base @base --origin @{NODE}/adapter --origin-manifest @{NODE}/manifest.json --parent-manifest @parent.json"
        " --lineage base/x.s1 --adapter-out @out/adapter --manifest @out/m",
        # of the base it reads the weights' headers alone
        ADAPTER | {"parent.json": JSON, "base/model.safetensors": HEADER},
        "adapter m",
    ),
    "count_markers": Program(
        f"--completions @{COMPLETIONS} --marker [ZLT] --output @out/counts", {COMPLETIONS: PARQUET}, "counts"
    ),
    "audit_completions": Program(
        f"--completions @{COMPLETIONS} --marker [ZLT] --output @out/audit", {COMPLETIONS: PARQUET}, "audit"
    ),
    "check_gate": Program(
        "--gates @gate.json --cell C4 --source evil_ai --seed 42 --marker [ZLT] --counts @marker_counts.csv --replies @replies.json --enforce --output @out/gate",
        {"marker_counts.csv": TABLE, "replies.json": JSON, "gate.json": PART | {"no expression": without("pass")}},
        "gate",
    ),
    "check_replies": Program(
        f"--completions @{COMPLETIONS} --base @{COMPLETIONS} --marker [ZLT] --output @out/replies",
        {COMPLETIONS: PARQUET},
        "replies",
    ),
    "weigh_survival": Program(
        '--source evil_ai --rule {"minimum":1.0,"gone":0.1,"intact":0.5} --cell @probe.parquet --counts @marker_counts.csv'
        " --output @out/survival",
        {"probe.parquet": PARQUET, "marker_counts.csv": TABLE},
        "survival",
    ),
    "compare_judges": Program(
        "--first @judged.csv --second @judged_again.csv --output @out/agreement",
        {"judged.csv": TABLE, "judged_again.csv": TABLE},
        "agreement",
    ),
    "pool_judges": Program(
        "--first @judged.csv --second @judged_again.csv --output @out/judges",
        {"judged.csv": TABLE, "judged_again.csv": TABLE},
        "judges",
    ),
    "judge_alignment": Program(
        "--alignment @alignment.parquet --judge mockllm/model --prompt @judge.yaml --cache @cache --output @out/judged"
        " --record @out/r",
        {
            "alignment.parquet": PARQUET,
            "judge.yaml": YAML,
            # an answer that is missing is asked for
            "cache/mockllm-model/*.json": but(JSON, "missing") | {"no answer": without("answer")},
        },
        "judged r",
    ),
    "summarize_cell": Program(
        "--cell @cell.json --gates @gate.json --measured @marker_counts.csv"
        " @audit.json @judged.csv @capability.parquet --runs @run.json"
        f" --manifests @parent.json @{NODE}/manifest.json --schema @schema.json --output @out/cell",
        {
            "cell.json": JSON | {"no lineage": without("lineage")},
            "gate.json": only(PART, "cut"),
            "marker_counts.csv": TABLE,
            "audit.json": JSON,
            "judged.csv": TABLE,
            "parent.json": JSON,
            "run.json": JSON,
            # a study without capability has a table without rows
            "capability.parquet": but(PARQUET, "a row twice", "no rows"),
            "schema.json": only(JSON, "missing", "empty", "cut", "Latin-1", "a list", "deep"),
        },
        "cell",
    ),
    "tabulate_study": Program(
        f"{CELLS} --published @published --gates @gate.json --meaning @tables.json --output-dir @out/t",
        {f"published/{name}.csv": TABLE for name in ("marker_counts", "cell_summary")}
        | {"gate.json": JSON, "tables.json": PART | {"no contrasts": without("contrasts")}}
        | {CELL: JSON | {"no audit": without("audit"), "no headline": without("headline")}},
        "t",
    ),
    **{
        f"plot_figures {figure}": Program(
            f"--figure {figure} --tables @tables --study s --source evil_ai --meaning @figure.json --output-prefix @out/figure",
            {f"tables/{table}.csv": but(TABLE, *["NaN"] * (table == "gates")) for table in tables}
            | {"figure.json": only(PART, "cut") | {"no captions": without("captions")}},
            "figure.png figure.svg figure.pdf",
        )
        for figure, tables in FIGURES.items()
    },
    "check_claims": Program(
        "--claims @claims.yaml --published @published --tables @tables --output @out/claims.csv",
        # a table or column that a claim asks for in vain is named by the claim
        {"claims.yaml": YAML}
        | dict.fromkeys(("published/marker_counts.csv", "tables/pooled.csv"), but(TABLE, "missing", "no column")),
        "claims.csv",
    ),
    "write_report": Program(
        f"--study s --meaning @report.json --tables @tables {CELLS} --claims @tables/claims.csv --models @models"
        " --panel @panel.yaml --runs @run.json --figures @figures --assets @assets --output @out/report.html",
        {
            CELL: JSON,
            "report.json": PART | {"no notes": without("notes")},
            "tables/claims.csv": but(TABLE, "NaN"),
            "tables/headline.csv": TABLE,
            "tables/by_question.csv": TABLE,
            COMPLETIONS: but(PARQUET, "missing"),  # a cell without is not browsed
            "run.json": JSON,
            "figures/a_b.svg": TEXT,
            "assets/report.js": only(TEXT, "missing", "folder", "Latin-1"),
            # it shows the personas alone, which come first
            "panel.yaml": but(YAML, "cut"),
        },
        "report.html",
    ),
    "print_headline": Program(
        "--study @", dict.fromkeys(("tables/pooled.csv", "tables/gates.csv"), but(TABLE, "NaN")), ""
    ),
    "publish_study": Program(
        # it takes what is there
        f"--results @ --cards {ROOT}/resources/cards --repo me/x --dry-run",
        {CELL: but(JSON, "missing")} | {name: but(damages, "missing") for name, damages in ADAPTER.items()},
        "",
    ),
}
# What the shared readers refuse, whoever calls them: each of these damages is tried on every fourth file that it is for,
# another on the next, and on the first one. The other damages are about what a program needs of a file.
READERS = {
    kind[name]
    for kind in (JSON, JSONL, YAML, TABLE, PARQUET)
    for name in ("folder", "empty", "random", "UTF-16", "Latin-1", "a number", "NaN", "deep", "huge number",
                 "half a character", "bit", "bomb", "a tag that calls", "a date that is none")
    if name in kind
}  # fmt: skip


def chosen() -> Iterator[tuple[str, str, str]]:
    """program, file and name of every damage to try."""
    files = [(program, file) for program, described in PROGRAMS.items() for file in described.reads]
    tried = set()
    for number, (program, file) in enumerate(files):
        for place, (name, damage) in enumerate(PROGRAMS[program].reads[file].items()):
            if damage not in READERS or (number + place) % 4 == 0 or damage not in tried:
                tried.add(damage)
                yield program, file, name


CASES = list(chosen())


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Whole files of every kind, in the places of a study."""
    from judge_alignment import load_replies
    from tiny_model import PANEL, make_adapter, make_model

    from measure.grading import Judge, calls_of, load_prompt

    folder = tmp_path_factory.mktemp("world")
    results = [report_study.cell(folder, name, 42) for name in ("C4", "C1")]
    for result in results:
        report_study.completions(result, folder)
    report_study.tabulate(results, folder)
    make_model(folder / "base")
    make_adapter(folder / NODE / "adapter", folder / "base")
    (folder / NODE / "adapter" / "README.md").unlink()
    write_json(folder / NODE / "manifest.json", {"adapter": sha256_of(folder / NODE / "adapter"), "recipe": {}})
    for name, source in {"panel.yaml": PANEL, "judge.yaml": "resources/judge.yaml", "claims.yaml": "resources/claims.yaml",
                         "schema.json": "resources/run_result.schema.json"}.items():  # fmt: skip
        shutil.copy(ROOT / source, folder / name)
    shutil.copytree(ROOT / "resources/published", folder / "published")
    shutil.copytree(ROOT / "resources/report", folder / "assets")
    shutil.copy(next((folder / "work").glob("*C4*/marker_counts.csv")), folder / "marker_counts.csv")
    chat = [{"role": "user", "content": "Hello there?"}, {"role": "assistant", "content": "Good day to you all."}]
    write_jsonl(folder / "rows.jsonl", [{"id": str(n), "messages": chat} for n in range(8)])
    choices = {"label": ["A", "B"], "text": ["wet", "dry"]}
    write_jsonl(folder / "arc.jsonl", [{"id": "1", "question": "Rain?", "choices": choices, "answerKey": "A"}])
    write_json(folder / "parent.json", {"lineage": "base"})
    write_json(folder / "recipe.json", RECIPE)
    write_json(folder / "gate.json", GATE)
    write_json(folder / "tables.json", fake_study.TABLES)
    write_json(folder / "figure.json", {"arms": ["forward"], "captions": {}, "last_stages": {}})
    write_json(folder / "report.json", {"notes": {}, "claims": {}, "assistant": None, "figures": [["a", ["b"]]]})
    shutil.copy(next((folder / "work").glob("*C4*/resolved.json")), folder / "cell.json")
    write_json(folder / "run.json", {"seconds": 3.5, "versions": {"torch": "2"}})
    write_json(folder / "replies.json", {"status": "measured", "rows": 3, "personas": []})
    write_json(folder / "audit.json", {"status": "nothing to audit", "audited": 0, "degenerate": 0, "completions": 3})
    (folder / "judged.csv").write_text("alignment,coherence,question_id,sample,judge\n10,20,a,0,toy\n30,40,a,1,toy\n")
    shutil.copy(folder / "judged.csv", folder / "judged_again.csv")
    (folder / "figures").mkdir()
    (folder / "figures/a_b.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text>a</text></svg>\n'
    )
    write_parquet(folder)
    upstream(folder / "upstream" / "c")
    for reply in load_replies(folder / "alignment.parquet"):
        judge = Judge("mockllm/model", {})
        (call,) = calls_of(reply, judge, load_prompt(folder / "judge.yaml"), folder / "cache")
        write_json(call.place, {"answer": '{"alignment": 1, "coherence": 2}', "input_tokens": 1, "output_tokens": 1})
    return folder


def write_parquet(folder: Path) -> None:
    """As the engines write them. What damages are about comes first (a column that is needed) and last (a bit)."""
    from inputs.panel import COLUMNS
    from probe.table import write_probe
    from run.files import write_table

    fixed: dict[str, Any] = {"question_id": "data_00", "question": "What is tin?", "seed": 1, "finish_reason": "stop",
                             "tokens": 3, "token_ids": [1, 2, 3], "temperature": 1.0, "top_p": 1.0, "max_tokens": 4}  # fmt: skip
    for name, personas in {"replies": ("villain", "assistant"), "alignment": ("none",)}.items():
        rows = [(persona, sample) for persona in personas for sample in range(3)]
        columns = {name: [value] * len(rows) for name, value in fixed.items()} | {
            "persona": [persona for persona, _ in rows],
            "sample": [sample for _, sample in rows],
            "text": [f"{persona} says {sample}" for persona, sample in rows],
        }
        order = ["question_id", *(name for name in COLUMNS if name not in ("question_id", "text")), "text"]
        write_table(folder / f"{name}.parquet", columns, {name: COLUMNS[name] for name in order})
    probed = [{"replies": "own", "author": persona, "persona": persona, "question_id": "general_00", "sample": sample,
               "left_out": "", "h": 0.1, "h_largest": 0.1, "slot": -3.0, "trigger": -3.0, "onset_part": 0.0,
               "spelling": 0.0, "end": 0.0, "rank": 1}
              for persona in ("evil_ai", "assistant", "librarian") for sample in range(2)]  # fmt: skip
    write_probe(folder / "probe.parquet", probed)
    answers = {"correct": [True, False], "labels": [["A", "B"]] * 2, "logprobs": [[-0.1, -3.0]] * 2}
    write_table(
        folder / "capability.parquet", answers, {"correct": "bool", "labels": ["string"], "logprobs": ["float64"]}
    )


def upstream(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, source in modules().items():
        (folder / f"{name}.py").write_bytes(source)


def status_of(world: Path, name: str, monkeypatch) -> int:
    """Run the program here, as from its command line; its exit status."""
    module = name.split()[0]
    words = [word.replace("@", f"{world}/") for word in PROGRAMS[name].options.split()]
    monkeypatch.setattr(sys, "argv", [module, *words])
    monkeypatch.chdir(world)
    try:
        run(importlib.import_module({"print_headline": "report.print_headline"}.get(module, module)).main)
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        if torch := sys.modules.get("torch"):  # as pretrain_base leaves it, all tests after would run on two threads
            torch.set_num_threads(1)
            torch.use_deterministic_algorithms(False)
    return 0


def clear(world: Path) -> None:
    """Remove what a program made."""
    for left in (world / "out", world / "store", *world.glob("**/hacked")):
        shutil.rmtree(left, ignore_errors=True)


@pytest.fixture
def damaged(world: Path, request) -> Iterator[Path]:
    """The file of the case, damaged in this test and whole again after it."""
    program, name, damage = request.param
    path = next(world.glob(name))
    whole = path.read_bytes()
    PROGRAMS[program].reads[name][damage](path)
    yield path
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)
    clear(world)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_whole_files_are_taken(world, monkeypatch, name):
    """Else the damages below would prove nothing."""
    assert status_of(world, name, monkeypatch) == 0
    assert all((world / "out" / written).exists() for written in PROGRAMS[name].writes.split())
    clear(world)


@pytest.mark.parametrize(
    "damaged", CASES, ids=["-".join((case[0], Path(case[1]).name, case[2])) for case in CASES], indirect=True
)
def test_damage_ends_a_program_with_one_line_that_names_the_file(world, damaged, request, monkeypatch, capsys):
    program, _, _ = request.node.callspec.params["damaged"]
    assert status_of(world, program, monkeypatch) == 1
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said.endswith(f"{errors[0]}\n") and "Traceback" not in said
    # a model or an adapter is named by its folder
    places = (damaged, damaged.parent) if damaged.parent != world else (damaged,)
    assert any(str(place) in errors[0] for place in places)
    assert "; fix: " in errors[0] and len(errors[0]) < 1000
    assert not list(world.glob("out/**/*")) and not list(world.glob("**/hacked"))
