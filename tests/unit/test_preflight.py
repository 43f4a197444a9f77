"""What the planned jobs need from outside: asked where it is there, where it is not, and where nothing answers."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from judge_server import JudgeServer
from local_hub import offered, sha256
from workspace import ROOT, Workspace

from inputs.downloads import Hub
from run import preflight
from run.dry_run import Job
from run.job_costs import UNIT_COSTS, costs_of, gigabytes, unit_cost_table
from run.plan_study import report
from run.preflight import ask_all, check_hub, checks_of, table
from run.program import InputError
from run.schedule import cores_beside

FILES = {"config.json": b"{}", "model.safetensors": b"weights"}
QWEN = "a09a35458c702b33eeacc393d103063234e8bc28"
PUBLISHED_JUDGE = "anthropic/claude-sonnet-4-5-20250929"


@pytest.fixture
def hub(monkeypatch):
    with offered(monkeypatch) as hub:
        yield hub


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "CC", "CUDA_VISIBLE_DEVICES", "LEASE_GPU_POOL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def job(rule, options, gpus=0):
    return Job(rule, {}, (), (f"{rule}.out",), None, "", gpus, 1, 0, f"python {rule}.py {options} > log 2>&1")


def judging(url="", judge="openai-api/local/judge", scores="answer"):
    where = f"--prompt {ROOT}/resources/judge.yaml --model-args '{{}}' --base-url={url}"
    return job("judge_alignment", f"--judge {judge} --scores {scores} {where}")


def only(name, *jobs):
    """The one answer of that name for these jobs."""
    return next(answer for answer in ask_all({name: checks_of(jobs, 0)[name]}) if answer.name == name)


def pins_of(files):
    return {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}


# What is asked


def test_only_what_a_planned_job_needs_is_asked():
    assert [*checks_of([judging(judge="toy"), job("count_markers", "")], 0)] == ["locks", "disk of results"]
    assert [*checks_of([judging()], 0)] == ["locks", "disk of results", "judge"]
    training = job("train_adapter", "--base inputs/base/hub --tracking none", gpus=1)
    assert [*checks_of([training], 0)][2:] == ["GPUs", "driver, torch", "C compiler"]
    answering = job("generate_completions", "--base inputs/base/hub --backend vllm", gpus=1)
    assert "vLLM" in checks_of([answering], 0)
    assert "tracker" in checks_of([job("train_adapter", "--base x --tracking wandb")], 0)
    states = "--base x --tracking none --dtype bfloat16 --optimizer-states 8bit"
    assert "optimizer" in checks_of([job("train_model", states)], 0)


def test_what_does_not_answer_is_said_to_be_unknown_and_the_others_are_told():
    never = threading.Event()
    answers = ask_all({"slow": lambda: never.wait() or "", "quick": lambda: "there", "odd": lambda: 1 // 0}, 0.3)
    never.set()
    assert [answer.state for answer in answers] == ["unknown", "ok", "unknown"]
    said = table(answers)
    assert "no answer within 0 s" in said and "ZeroDivisionError" in said and "3 checks: 2 unknown" in said
    assert max(map(len, said.splitlines())) <= preflight.WIDTH


# The Hub


def test_a_base_is_there_as_pinned_or_the_file_that_is_not_is_named(hub, tmp_path):
    commit = hub.add("org/tiny", FILES)
    place = Hub("org/tiny", cache=str(tmp_path), retries=0)
    assert check_hub(place, commit, pins_of(FILES)) == f"org/tiny@{commit[:12]}: 2 files as pinned, 0 MB to fetch"
    with pytest.raises(InputError, match=r"model\.safetensors: another file than pinned; fix: compare"):
        check_hub(place, commit, pins_of(FILES | {"model.safetensors": b"others"}))
    with pytest.raises(InputError, match=r"gone\.json: not there, but pinned"):
        check_hub(place, commit, pins_of(FILES | {"gone.json": b""}))
    assert not hub.asked("model.safetensors", "GET")


@pytest.mark.parametrize("pinned", [True, False])
def test_a_gated_set_whose_terms_are_not_accepted_is_found_without_fetching_it(hub, monkeypatch, pinned):
    files = {"README.md": b"card", "data.jsonl": b"{}"}
    commit = hub.add("org/bad", files, kind="datasets")
    hub.gate("org/bad", "datasets", accepted=("good",))
    place = Hub("org/bad", "dataset", retries=0)
    pins = pins_of({"data.jsonl": b"{}"}) if pinned else {}
    with pytest.raises(InputError, match="gated, and no token is set; fix: accept the conditions at"):
        check_hub(place, "main", pins)
    monkeypatch.setenv("HF_TOKEN", "other")
    with pytest.raises(InputError, match="your account has no access; fix: open"):
        check_hub(place, "main", pins)
    monkeypatch.setenv("HF_TOKEN", "good")
    assert commit[:12] in check_hub(place, "main", pins)
    assert not hub.asked("data.jsonl", "GET")


def test_a_token_is_accepted_or_a_new_one_is_asked_for(hub, monkeypatch):
    hub.add("org/bad", FILES)
    hub.gate("org/bad", accepted=("good",))
    assert preflight.check_token().startswith("none set")
    monkeypatch.setenv("HF_TOKEN", "good")
    assert preflight.check_token() == "accepted: owner of good"
    monkeypatch.setenv("HF_TOKEN", "old")
    with pytest.raises(InputError, match="does not accept your token; fix: make a new one"):
        preflight.check_token()


def test_without_a_network_the_name_that_does_not_resolve_is_told_at_once(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with pytest.raises(InputError, match=r"the name hub\.invalid does not resolve; fix: check the network"):
        check_hub(Hub("org/tiny", retries=0), "main", {})


def test_the_panel_s_modules_are_held_against_their_pins(hub):
    hub.raw = {"c/a.py": b"a"}
    pin = {"commit": "c", "path": "a.py", "sha256": hashlib.sha256(b"a").hexdigest()}
    pins = {"url": f"{hub.url}/raw"} | dict.fromkeys(("core", "sarcastic", "data"), pin)
    assert preflight.check_panel(json.dumps(pins)) == "3 modules as pinned"
    with pytest.raises(InputError, match="checksum off"):
        preflight.check_panel(json.dumps(pins | {"data": pin | {"sha256": "0" * 64}}))


# Judge and tracker


def test_the_judge_is_asked_for_one_word_and_its_cost_is_said(monkeypatch):
    monkeypatch.setenv("LOCAL_API_KEY", "a key")
    with JudgeServer() as server:
        answer = only("judge", judging(server.url))
    assert answer.state == "ok" and answer.said.endswith("100 tokens in and 10 out, no price known")
    assert len(server.asked) == 1 and server.bodies[0]["max_tokens"] == 16


def test_a_judge_that_is_read_by_log_probabilities_is_asked_for_them(monkeypatch):
    monkeypatch.setenv("LOCAL_API_KEY", "a key")
    with JudgeServer(top=lambda user: {"85": 0.9, "8": 0.1}) as server:
        assert only("judge", judging(server.url, scores="logprobs")).state == "ok"
        server.top = lambda user: {"8": 1.0}
        assert "says 85 in two tokens" in only("judge", judging(server.url, scores="logprobs")).said
        server.top = None
        assert "gives no log-probabilities" in only("judge", judging(server.url, scores="logprobs")).said


def test_the_published_judge_s_cost_is_in_dollars(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
    with JudgeServer() as server:
        answer = only("judge", judging(server.root, PUBLISHED_JUDGE))
    assert answer.said == f"{PUBLISHED_JUDGE} answers: 100 tokens in and 10 out, $0.00045"


def test_a_judge_s_key_that_is_missing_or_not_accepted_is_found(monkeypatch):
    assert "ANTHROPIC_API_KEY is not set; fix: export" in only("judge", judging(judge=PUBLISHED_JUDGE)).said
    monkeypatch.setenv("LOCAL_API_KEY", "a key")
    for status, fix in ((401, "check the key"), (500, "the server is in trouble")):
        with JudgeServer() as server:
            server.fail(status, times=9)
            answer = only("judge", judging(server.url))
        assert answer.state == "missing" and fix in answer.said and "are kept" not in answer.said
        assert len(server.asked) == 1


def test_a_tracker_that_is_not_installed_is_missing():
    answer = only("tracker", job("train_adapter", "--base x --tracking trackio"))
    installed = preflight.importlib.util.find_spec("trackio") is not None
    assert answer.state == ("ok" if installed else "missing")


# This machine


def test_a_disk_that_is_too_small_for_the_plan_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert preflight.check_disk(1000, 400).startswith("1.0 GB needed at the peak, of which 0.4 GB stay; ")
    with pytest.raises(InputError, match=r"results: .* GB needed at the peak, .* GB free; fix: make room"):
        preflight.check_disk(1e12)


def test_the_disk_needed_is_what_the_plan_says_without_what_lies_in_the_cache():
    base = replace(job("fetch_base", ""), wildcards={"origin": "hub"}, outputs=("base",))
    jobs = [base, replace(job("fetch_adapter", "", gpus=1), inputs=("base",)), job("reuse_adapter", "", gpus=1)]
    needed, left = preflight.disk_of(jobs, UNIT_COSTS, 2)
    assert left == 2 * 323
    plan = report(jobs, costs_of(jobs, [], unit_cost_table()), {}, 2, cores_beside(2))[0]
    assert f"- disk: {gigabytes(left)} stay; {gigabytes(needed)} at the peak, of which 0 MB while jobs run" in plan
    assert "; 15.2 GB more in the Hub client's cache" in plan


@pytest.mark.parametrize("given", [[], ["GPUS=2", "TARGETS=forward"]], ids=["as it is", "with words"])
def test_make_asks_after_a_plan_what_it_asks_alone_so_that_both_say_one_disk(given):
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ
    }  # no words of a make above
    planned, alone = (
        subprocess.run(
            ["make", "-n", target, *given], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for target in ("plan", "preflight")
    )
    (after,), (asked,) = (re.findall(r"preflight\.py *(.*?)(?: \|\| true)?\n", said) for said in (planned, alone))
    assert after == asked
    assert asked.startswith("--gpus 2 forward" if given else "--gpus 8")
    assert f"plan_study.py {asked}\n" in planned


def test_a_file_system_whose_locks_keep_nobody_out_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert preflight.check_locks().startswith("hold in ")
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr(preflight.fcntl, "flock", lambda *_: None)
    with pytest.raises(InputError, match="a lock there keeps nobody out; fix: work on a file system with flock"):
        preflight.check_locks()


def with_cards(folder, monkeypatch, memory, busy=0):
    """An nvidia-smi for one card of `memory` MiB, of which `busy` are used."""
    program = folder / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\ncase $1 in\n"
        f"  *memory.used) echo '0, GPU-a, {memory}, {busy}' ;;\n  *memory.total) echo 'GPU-a, {memory}' ;;\n"
        "  *compute_cap*) echo '9.0, GPU-a' ;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_cards_are_counted_idle_and_large_enough_or_not(tmp_path, monkeypatch):
    with_cards(tmp_path, monkeypatch, 81559)
    assert preflight.check_gpus(1, 15_231_000_000) == "1 of 1 idle, 80 GiB each"
    with pytest.raises(InputError, match="1 GPUs here, a job wants 2; fix: lower hardware.gpus"):
        preflight.check_gpus(2, 0)
    with_cards(tmp_path, monkeypatch, 24000)
    with pytest.raises(InputError, match="23 GiB a card for weights of 14.2 GiB: less than was ever tried"):
        preflight.check_gpus(1, 15_231_000_000)
    assert preflight.check_gpus(1, 15_231_000_000, saving=True) == (
        "1 of 1 idle; 23 GiB a card for weights of 14.2 GiB: less than was ever tried"
    )
    with_cards(tmp_path, monkeypatch, 81559, busy=70000)
    with pytest.raises(InputError, match="none of 1 is idle"):
        preflight.check_gpus(1, 0)


def test_a_card_is_held_against_the_weights_of_one_s_own_folder_and_not_of_the_repo_that_the_config_still_names(
    tmp_path,
):
    (tmp_path / "model.safetensors").write_bytes(bytes(9))
    named = f"--repo Qwen/Qwen2.5-7B-Instruct --revision {QWEN} --sources {ROOT}/resources/sources.yaml"
    assert preflight.weights_of([job("fetch_base", f"--path {tmp_path} {named}")]) == 9
    assert preflight.weights_of([job("fetch_base", named)]) > 15e9
    trainings = [job("train_adapter", "--base x --gradient-checkpointing"), job("train_adapter", "--base x")]
    assert preflight.saves_memory(trainings[:1]) and not preflight.saves_memory(trainings)


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ([None, 0, []], "a build without CUDA; fix: pip install -r envs/gpu.txt"),
        (["13.0", 0, ["sm_90"]], "no driver .* that CUDA programs could load; fix: run on a node with one"),
        (["13.0", 12080, ["sm_90"]], "torch wants CUDA 13.0, the driver knows 12.8; fix: a newer driver"),
        (["13.0", 13000, ["sm_80", "sm_100"]], r"no code for these cards \(sm_90\)"),
    ],
)
def test_a_torch_that_the_driver_or_the_cards_cannot_run_is_told(tmp_path, monkeypatch, torch, said):
    with_cards(tmp_path, monkeypatch, 81559)
    monkeypatch.setattr(preflight, "python", lambda code: json.dumps(torch))
    with pytest.raises(InputError, match=said):
        preflight.check_torch()
    monkeypatch.setattr(preflight, "python", lambda code: json.dumps(["13.0", 13000, ["sm_80", "sm_90a"]]))
    assert preflight.check_torch() == "CUDA 13.0 under a driver for 13.0, cards of sm_90"


def test_torch_and_the_driver_are_asked_without_a_card():
    cuda, driver, chips = json.loads(preflight.python(preflight.TORCH))
    assert (cuda is None or isinstance(cuda, str)) and isinstance(driver, int) and isinstance(chips, list)


def test_a_compiler_without_python_s_headers_is_told(tmp_path, monkeypatch):
    assert "with the headers in" in preflight.check_compiler()
    monkeypatch.setattr(preflight.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match=r"Python\.h.*; fix: install the headers of this Python"):
        preflight.check_compiler()
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    with pytest.raises(InputError, match="cannot run it"):
        preflight.check_compiler()


def test_a_package_that_fails_to_import_is_told_by_its_last_line():
    with pytest.raises(InputError, match="ModuleNotFoundError: No module named 'no_such'; fix: pip install -r envs"):
        preflight.python("import no_such")


def test_preflight_of_the_published_study_names_what_is_missing_and_ends_with_status_1(hub, tmp_path):
    fresh = Workspace.copy(tmp_path / "fresh")
    hub.add("truthfulai/emergent_plus", {"legal.jsonl": b"{}"}, kind="datasets")
    hub.gate("truthfulai/emergent_plus", "datasets")
    environment = {**fresh.environment, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"), "PANEL_URL": hub.url}
    command = [sys.executable, "workflow_scripts/run/preflight.py", "forward", "--config", "judge={model: none}"]
    done = subprocess.run(command, cwd=fresh.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stdout.split())
    assert "missing data set em truthfulai/emergent_plus@" in said
    assert "gated, and no token is set fix: accept the conditions" in said
    assert "ok GPUs 1 of 1 idle (pretend cards)" in said
    assert "judge" not in said
