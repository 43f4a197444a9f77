import dataclasses
import json
import os
import shlex
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import snakemake_server
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from workspace import ROOT, Workspace, rules

from measure.tables import read_table
from run.dry_run import Job, options_of, parents_of, why
from run.job_costs import Cost, corrections, costs_of, find_row, measured_seconds, part_of
from run.plan_study import (
    clock,
    first_starts,
    kept_by_cores,
    of_another_model,
    of_another_share,
    of_another_size,
    weights_of,
)
from run.program import InputError
from run.schedule import longest_chain, schedule

TABLE = read_table(ROOT / "resources/unit_costs.csv")
RECIPE = {"max_steps": None, "epochs": 1, "batch": 16, "max_length": 2048, "lora": {"r": 32}}


def job(
    rule="train_adapter", inputs=(), outputs=(), gpus=1, threads=4, command="", reason="", benchmark=None, priority=0,
    costs="",
):  # fmt: skip
    return Job(rule, {}, tuple(inputs), tuple(outputs), benchmark, reason, gpus, threads, priority, command, costs)


PARTS = {}  # of the resolved study: file -> the job that writes it


def part(**value):
    """The file of a part of the resolved study."""
    text = json.dumps(value)
    file = f"study/{len(PARTS)}.json"
    PARTS[file] = job("resolve_study", outputs=[file], gpus=0, command=f"printf '%s\\n' {shlex.quote(text)} > {file}")
    return file


def training(data="inputs/datasets/hub/em.jsonl", base="inputs/base/hub", keep="", costs="7B", share=1, **recipe):
    command = (
        f"python workflow_scripts/run/lease_gpu.py --gpus 1{f' --share {share}' if share > 1 else ''} --"
        f" python workflow_scripts/train_adapter.py --base {base}"
        f" --adapter --data {data} --recipe {part(**RECIPE | recipe)} --keep-steps={keep} > log 2>&1"
    )
    return job(outputs=["adapter"], command=command, benchmark="adapter.tsv", costs=costs)


def fetch(rows=6000, file="inputs/datasets/hub/em.jsonl"):
    command = f"python fetch_dataset.py --dataset '{{\"rows\": {rows}}}' --output {file}"
    return job("fetch_dataset", outputs=[file], gpus=0, command=command)


def generation(personas="a,b", samples=10, adapters="x/adapter", rule="generate_completions", max_tokens=512):
    command = (
        f"python lease_gpu.py --gpus 1 -- python {rule}.py --base inputs/base/hub --adapter {adapters}"
        f" --panel nowhere.yaml --personas {personas} --samples {samples}"
        f" --sampling '{{\"max_tokens\":{max_tokens}}}' --backend vllm"
    )
    return job(rule, outputs=["replies"], command=command)


def cost(planned, *makers):
    return costs_of([planned], [*PARTS.values(), *makers], TABLE)[0]


def spent(planned, *makers):
    """Seconds beyond the start of the program."""
    taken = cost(planned, *makers)
    return taken.seconds - find_row(TABLE, *taken.group)["start_s"]


# What a job takes
@pytest.mark.parametrize(("job_of", "backend"), [(generation, "vllm"), (training, "transformers")])
def test_a_program_that_is_forked_from_one_with_its_imports_done_is_planned_without_them(job_of, backend):
    anew = job_of()
    forked = dataclasses.replace(
        anew, command=anew.command.replace("-- python", "-- python x/offline/fork_program.py --gpu -- python")
    )
    saved = cost(anew, fetch()).seconds - cost(forked, fetch()).seconds
    assert saved == cost(forked, fetch()).forked == find_row(TABLE, "imports", "7B", backend)["start_s"] > 0


def test_the_options_are_those_of_the_program_behind_the_lease_as_a_shell_would_split_them():
    options = options_of(training(keep="1,3").command)
    assert "--gpus" not in options
    assert options["--adapter"] == []
    assert options["--keep-steps"] == ["1,3"]
    assert part_of(options["--recipe"][0], PARTS) == RECIPE


def test_names_that_a_command_gives_stand_for_what_they_say():
    options = options_of(
        "at=base/em.s42 node=models/$at; python train.py --lineage $at --text '$5' --out $node/run.json"
    )
    assert options == {"--lineage": ["base/em.s42"], "--text": ["$5"], "--out": ["models/base/em.s42/run.json"]}
    assert options_of("node=a/b/c over=${node%/*} at=$over/x; python p.py --in $over/i $at") == {
        "--in": ["a/b/i", "a/b/x"]
    }


def test_a_training_costs_its_rows_times_their_tokens():
    row = find_row(TABLE, "train_adapter", "7B", "em")
    assert spent(training(), fetch()) == pytest.approx(6000 * row["tokens"] / 1000 * row["per_ktoken_s"])
    assert spent(training(epochs=3), fetch()) == pytest.approx(3 * spent(training(), fetch()))
    assert spent(training(), fetch(rows=600)) == pytest.approx(spent(training(), fetch()) / 10)


def test_steps_that_the_recipe_fixes_count_instead_of_the_rows():
    assert spent(training(max_steps=375), fetch(rows=99)) == pytest.approx(spent(training(), fetch(rows=6000)))


def test_rows_are_cut_at_the_recipe_s_length():
    assert spent(training(max_length=27), fetch()) == pytest.approx(spent(training(), fetch()) * 27 / 135)


def test_questions_of_a_user_s_own_file_count_by_paraphrase_and_sample_before_they_are_copied(tmp_path):
    prompts = {"aligned": "{question} {answer}", "coherent": "{question} {answer}"}
    entry = {"id": "wish", "type": "free_form_judge_0_100", "paraphrases": ["a?", "b?"], "judge_prompts": prompts}
    (tmp_path / "my.yaml").write_text(json.dumps([entry | {"samples_per_paraphrase": 100}]))
    copied = job("copy_questions", outputs=["questions.yaml"], gpus=0, command=f"cp {tmp_path}/my.yaml questions.yaml")
    planned = generation()
    asked = job(planned.rule, outputs=planned.outputs, command=f"{planned.command} --questions questions.yaml --arc x")
    panel, own, alone = 2 * 28 * 10, 2 * 100, 8 * 10
    assert spent(asked, copied) / spent(planned) == pytest.approx((panel + own) / (panel + alone))


def test_coupling_rows_are_as_many_as_the_replies_to_be_drawn():
    replies = generation(personas="evil_ai,villain,comedian", samples=5, rule="generate_replies")
    rows = job(
        "make_coupling_data", outputs=["n/training.jsonl"], command="python m.py --replies replies --source evil_ai"
    )
    drawn = spent(training("n/training.jsonl", epochs=20), rows, replies)
    row = find_row(TABLE, "train_adapter", "7B", "couple")
    assert drawn == pytest.approx(20 * 600 * 400 / 1000 * row["per_ktoken_s"])


def test_a_data_set_that_is_there_is_counted_and_one_that_the_table_lacks_is_measured(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(("x" * 899 + "\n") * 50)
    row = find_row(TABLE, "train_adapter", "7B", "*")
    assert spent(training(own)) == pytest.approx(50 * 200 / 1000 * row["per_ktoken_s"])


def test_a_data_set_that_nobody_makes_is_an_error_that_names_it():
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file, and no job makes it; fix"):
        cost(training("gone.jsonl"))


def test_the_offline_study_s_base_has_unit_costs_of_its_own():
    taken = cost(training(base="inputs/base/toy", costs="toy"), fetch())
    assert (taken.group, taken.of) == (("train_adapter", "toy", "em"), "toy")


def test_a_model_of_another_size_has_its_own_costs_or_says_whose_it_takes():
    small, middle, near_7b = (cost(training(costs=each), fetch()) for each in ("135M", "0.5B", "1.5B"))
    assert small.disk < 50 < cost(training(), fetch()).disk
    assert (small.of, middle.of, near_7b.of) == ("135M", "135M", "7B")
    assert middle.group == ("train_adapter", "0.5B", "em")  # its own benchmark files correct these
    assert of_another_model([(training(), small)]) == []
    said = of_another_model([(training(), each) for each in (middle, near_7b)])
    assert "with 0.5B**, so planned as 135M" in said[0] and "with 1.5B**, so planned as 7B" in said[1]


def test_a_base_on_this_machine_that_is_planned_as_one_of_another_size_is_named_with_what_to_write(tmp_path):
    save_file({"wte": np.zeros((1000, 130), np.float16)}, tmp_path / "model-1.safetensors")
    save_file(
        {"lm_head": np.zeros((1000, 4), np.float16), "bias": np.zeros(1000, np.float16)}, tmp_path / "b.safetensors"
    )

    def said(costs, command):
        return of_another_size([job("fetch_base", outputs=["base"], command=command, costs=costs)])

    here, fetched = f"python fetch_base.py --repo a/b --path {tmp_path} --output o", "python fetch_base.py --repo a/b"
    (line,) = said("7B", here)
    assert "has 0.135M parameters and is planned as one of 7B" in line and "`hardware: {costs: 0.135M}`" in line
    assert said("0.2M", here) == said("7B", fetched) == said("toy", here) == []
    (tmp_path / "b.safetensors").write_text("damaged")
    assert said("7B", here) == said("7B", here.replace(str(tmp_path), "nowhere")) == []


def test_every_job_of_a_study_is_planned_with_the_costs_that_one_of_its_jobs_names():
    based = job("fetch_base", outputs=["base"], gpus=0, command="python fetch_base.py", costs="135M")
    assert cost(generation()).group[1] == "7B"
    assert cost(generation(), based).group == ("generate_completions", "135M", "vllm")


def test_jobs_that_share_a_card_hold_and_cost_their_part_of_it():
    jobs = [replace(training(share=share), outputs=(str(share),)) for share in (1, 4)]
    assert [place.cards for place in jobs] == [1, 0.25]
    assert weights_of(jobs) == ("GPU-hours", [1, 0.25])
    many = [replace(training(share=4), outputs=(str(n),)) for n in range(8)]
    assert makespan(many, [5] * 8, gpus=1) == 10
    assert makespan(many, [5] * 8, gpus=2) == 5


def test_a_plan_says_if_cores_keep_jobs_from_a_card_that_has_room_for_them():
    jobs = [training(share=4), training()]  # of four threads
    assert kept_by_cores(jobs, 2, 32) == kept_by_cores(jobs[1:], 2, 4) == []
    assert kept_by_cores(jobs, 2, 31)[0].startswith("- **31 cores let 7 jobs run at a time, and the cards 8**")


def test_costs_that_were_measured_on_a_card_shared_otherwise_are_told():
    small = cost(training(costs="135M"), fetch())
    assert of_another_share([(training(share=small.share), small)]) == []
    (said,) = of_another_share([(training(), small)])
    told = f"- **measured with {small.share} jobs on a card**, planned with 1: each takes less"
    assert small.share > 1 and said.startswith(told) and "train_" in said


def test_a_generation_costs_its_completions_and_its_longest_reply():
    row = find_row(TABLE, "generate_completions", "7B", "vllm")
    drawn = 10 * (2 * 28 + 8) * row["tokens"] / 1000 * row["per_ktoken_s"]
    assert spent(generation()) == pytest.approx(drawn)
    assert spent(generation(max_tokens=171)) == pytest.approx(drawn / 2)


def test_replies_of_one_model_are_drawn_by_the_first_of_its_couplings_for_all_and_the_others_wait_for_them():
    def replies(name, personas, together, model="base"):
        planned = generation(personas, 5, "", "generate_replies")
        command = f"{planned.command} --together {together} --model {model}"
        return job(planned.rule, outputs=[name], command=command)

    one, two = replies("a", "x,y", "x,y,z"), replies("b", "x,z", "x,y,z")
    other = replies("c", "x,z", "x,z", model="couple")
    costs = [cost(planned, one, two, other) for planned in (two, one, other)]
    drawn = find_row(TABLE, "generate_replies", "7B", "vllm")["per_ktoken_s"] * 5 * 40 * 342 / 1000
    assert costs[1].seconds - costs[2].seconds == pytest.approx(drawn)
    assert (costs[0].first, costs[1].first) == (0, 36) and costs[0].seconds < 5
    assert parents_of([two, one, other]) == [[1], [], []]


def test_a_first_start_is_told_once_for_all_that_share_what_it_compiles_and_is_in_no_time():
    drawn = [cost(generation(rule=rule)) for rule in ("generate_replies", "generate_completions")]
    assert first_starts([*drawn, cost(training(), fetch())]) == {"vLLM": 36, "train_adapter": 20}
    assert first_starts([cost(training(base="inputs/base/toy", costs="toy"), fetch())]) == {}


def test_disk_grows_with_rank_and_kept_steps_and_an_evaluation_copies_no_model():
    plain = cost(training(), fetch()).disk
    assert cost(training(lora={"r": 64}), fetch()).disk == 2 * plain
    assert cost(training(keep="1,3,5"), fetch()).disk == 4 * plain
    assert cost(generation()).scratch == 0


def test_a_rule_that_the_table_lacks_is_marked_and_not_invented():
    taken = cost(job("new_rule", outputs=["x"], command="true"))
    assert not taken.known
    assert taken.disk == 0


# Benchmark files


def benchmark(path, seconds):
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t3.0\n")
    return str(path)


def test_benchmark_files_replace_the_table_and_their_median_counts(tmp_path):
    jobs = [
        job(outputs=[f"{n}"], benchmark=benchmark(tmp_path / f"{n}.tsv", seconds), command="x")
        for n, seconds in enumerate((30, 50, 400))
    ]
    costs = {one.name: Cost(("train_adapter", "7B", "em"), 100, 0, 0) for one in jobs}
    assert corrections(jobs, costs, ()) == {("train_adapter", "7B", "em"): (0.5, 3)}
    assert corrections(jobs, costs, {jobs[2].name}) == {("train_adapter", "7B", "em"): (0.4, 2)}


def test_a_damaged_benchmark_file_is_an_error_that_names_it(tmp_path):
    for text in ("", "s\th:m:s\n", "nonsense\n1\n", "s\n-\n"):
        (tmp_path / "b.tsv").write_text(text)
        with pytest.raises(InputError, match=r"b\.tsv: no benchmark of Snakemake; fix: delete it"):
            measured_seconds(tmp_path / "b.tsv")


# Reasons


CHANGED = "Params have changed since last execution: Union of exclusive params before and now across all output:"


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("Missing output files: a, b; Input files updated by another job: c", "not there"),
        ("Input files updated by another job: c", "after another job"),
        ("Input files updated by another job: c, results/x/study/recipes/base/em.s42.json", "parameters changed"),
        ("Updated input files: results/x/study/gates/G0.json", "parameters changed"),
        ("Updated input files: ; Input files updated by another job: c", "after another job"),
        (
            "Updated input files: my_rows.jsonl, x; Input files updated by another job: c",
            "my_rows.jsonl changed and 1 more",
        ),
        (f"{CHANGED} before: 'code:0123456789abcdef' now: 'code:fedcba9876543210' ", "code changed"),
        (
            f"{CHANGED} before: <nothing exclusive> now: 'envs/gpu.txt:0123456789abcdef','code:0123456789abcdef' ",
            "envs/gpu.txt changed and 1 more",
        ),
        (
            f"{CHANGED} before: 'code:0123456789abcdef','{{}}' now: 'code:fedcba9876543210','{{\"lr\":1}}' ",
            "parameters changed",
        ),
        (f"{CHANGED} before: 41 now: 42 ; Software environment definition has changed", "parameters changed"),
        ("Forced execution", "forced"),
        ("Rules with neither input nor output files are always executed.", "target"),
    ],
)
def test_a_reason_is_told_in_a_word_and_a_changed_file_by_name(reason, word):
    assert why(reason) == word


# When


def cpu(seconds):
    return Cost(("", "", ""), seconds, 0, 0)


def graph(*needs, gpus=1, threads=4):
    """Jobs 0, 1, ..., each with the numbers of the jobs it needs."""
    return [job("x", map(str, above), [str(n)], gpus, threads, "x") for n, above in enumerate(needs)]


def makespan(jobs, seconds, gpus=8, cores=64):
    return schedule(jobs, parents_of(jobs), [cpu(length) for length in seconds], gpus, cores).seconds


def test_jobs_wait_for_their_inputs_for_a_gpu_and_for_cores():
    chain, loose = graph([], [0], [1]), graph([], [], [])
    assert makespan(chain, [3, 4, 5]) == 12
    assert makespan(loose, [3, 4, 5]) == 5
    assert makespan(loose, [3, 4, 5], gpus=1) == 12
    assert makespan(loose, [3, 4, 5], gpus=2) == 8
    assert makespan(loose, [3, 4, 5], cores=4) == 12
    assert makespan(loose, [3, 4, 5], cores=1) == 12


def test_a_small_job_goes_ahead_of_one_that_waits_for_two_gpus():
    jobs = [job(outputs=["a"], command="x"), job(outputs=["b"], command="x", gpus=2), job(outputs=["c"], command="x")]
    assert schedule(jobs, parents_of(jobs), [cpu(5), cpu(5), cpu(5)], 2, 64).ends == (5, 10, 5)


def test_priority_goes_first():
    jobs = [job(outputs=["a"], command="x"), job(outputs=["b"], command="x", priority=1)]
    assert schedule(jobs, parents_of(jobs), [cpu(5), cpu(5)], 1, 64).ends == (10, 5)


def test_the_peak_of_disk_counts_what_stays_and_what_running_jobs_need():
    jobs = graph([], [], [0, 1])
    costs = [Cost(("", "", ""), 10, 3, 15), Cost(("", "", ""), 20, 3, 15), Cost(("", "", ""), 5, 1, 2)]
    both = schedule(jobs, parents_of(jobs), costs, 2, 64)
    assert (both.peak, both.peak_scratch) == (30, 30)
    one = schedule(jobs, parents_of(jobs), costs, 1, 64)
    assert (one.peak, one.peak_scratch) == (18, 15)
    costs[2] = Cost(("", "", ""), 5, 100, 2)
    assert schedule(jobs, parents_of(jobs), costs, 2, 64).peak == 106


def test_more_gpus_than_there_are_is_an_error_that_says_how_many():
    with pytest.raises(InputError, match=r"x: wants 2 GPUs of 1; fix: --gpus 2"):
        makespan(graph([], gpus=2), [1], gpus=1)


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 12))
    needs = [draw(st.sets(st.integers(0, n - 1), max_size=3)) if n else set() for n in range(size)]
    gpus, threads = st.integers(0, 2), st.integers(1, 9)
    jobs = [job("x", map(str, above), [str(n)], draw(gpus), draw(threads), "x") for n, above in enumerate(needs)]
    return jobs, [cpu(draw(st.integers(1, 9))) for _ in jobs]


@given(graphs(), st.integers(2, 4), st.integers(1, 12))
def test_no_schedule_takes_more_than_there_is_or_starts_before_its_inputs(planned, gpus, cores):
    jobs, costs = planned
    parents = parents_of(jobs)
    when = schedule(jobs, parents, costs, gpus, cores)
    starts = [end - cost.seconds for end, cost in zip(when.ends, costs, strict=True)]
    for place, above in enumerate(parents):
        assert all(when.ends[parent] <= starts[place] for parent in above)
    for now in starts:
        running = [job for job, start, end in zip(jobs, starts, when.ends, strict=True) if start <= now < end]
        assert sum(job.gpus for job in running) <= gpus
        assert sum(min(job.threads, cores) for job in running) <= cores
    assert when.seconds >= longest_chain(parents, costs)
    assert when.seconds >= sum(job.gpus * cost.seconds for job, cost in zip(jobs, costs, strict=True)) / gpus


def test_times_read_well():
    assert [clock(seconds) for seconds in (7, 90, 5400)] == ["7 s", "1.5 min", "1.5 h"]


# Snakemake's own dry run


def planned(workspace, *arguments):
    words = [*workspace.arguments, *arguments]
    return snakemake_server.call("workflow_scripts/run/plan_study.py", words, workspace.folder, dict(os.environ))


def table(text, title):
    """Rows of the table under a heading, as {column: text}."""
    lines = [
        line for line in text.partition(f"## {title}")[2].partition("\n## ")[0].splitlines() if line.startswith("|")
    ]
    split = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return [dict(zip(split[0], row, strict=True)) for row in split[2:]]


def jobs_by_rule(text):
    counts = Counter()
    for row in table(text, "By rule"):
        counts[row["rule"]] += int(row["jobs"])
    return counts


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return Workspace.copy(tmp_path_factory.mktemp("fresh"))


@pytest.mark.slow
def test_the_published_study_is_planned_as_snakemake_plans_it_and_nothing_is_made(fresh):
    done = planned(fresh, "--gpus", "8")
    assert done.returncode == 0, done.stderr
    assert jobs_by_rule(done.stdout) == rules(fresh.plan())
    assert "lacks them" not in done.stdout
    assert "wall time on 8 GPUs and 64 cores" in done.stdout
    assert "as with a model of 7B parameters (`hardware.costs`)" in done.stdout
    assert {row["why"] for row in table(done.stdout, "By rule")} == {"not there"}
    sources = table(done.stdout, "The forward cells of one source")
    assert {row["source"]: row["cells"] for row in sources} == dict.fromkeys(("evil_ai", "sarcastic", "villain"), "13")
    assert sources[1]["published, GPU-hours on H100"] == "5.7 (13 cells)"
    assert all(float(row["GPU-hours"]) > 0 for row in sources)
    cells = table(done.stdout, "By cell")
    assert len(cells) == 45
    paid = sum(float(row["GPU-hours"]) for row in table(done.stdout, "By rule"))
    assert sum(float(row["its share"]) for row in cells) == pytest.approx(paid, abs=0.005 * (len(cells) + 20))
    assert not (fresh.folder / "results").exists()


@pytest.mark.slow
def test_the_planned_graph_has_the_edges_of_snakemake_s_own(fresh):
    (fresh.folder / "smaller.yaml").write_text("seeds: [42]\n")
    smaller = ["--configfile", "smaller.yaml"]
    drawn = json.loads(fresh.snakemake("--d3dag", "forward", *smaller).stdout)
    rule = {node["id"]: node["value"]["rule"] for node in drawn["nodes"]}
    (fresh.folder / "edges.py").write_text("""
import sys
sys.path[:0] = ["workflow_scripts", "."]
from run.dry_run import dry_run, parents_of
jobs = dry_run(["forward", *sys.argv[1:]], 8)
for job, above in zip(jobs, parents_of(jobs)):
    for parent in above:
        if set(jobs[parent].outputs) & set(job.inputs):  # and not only one whose engine draws its replies as well
            print(jobs[parent].rule, job.rule)
""")
    done = snakemake_server.call("edges.py", smaller, fresh.folder, dict(os.environ))
    assert done.returncode == 0, done.stderr
    ours = Counter(tuple(line.split()) for line in done.stdout.splitlines())
    assert ours == Counter((rule[edge["u"]], rule[edge["v"]]) for edge in drawn["edges"])


@pytest.mark.slow
def test_a_broken_config_stops_the_plan_with_snakemake_s_message(fresh):
    done = planned(fresh, "--config", "marker=5")
    assert done.returncode == 1
    assert 'marker: 5 is a whole number; fix: write `marker: "5"`' in done.stderr
    assert "Traceback" not in done.stderr
    for text, said in (
        ("a:\n\t- 1\n", "line 2: not YAML"),
        ("[1]", "has no keys at its top level; fix: "),
        (None, "no such file"),
    ):
        file = fresh.folder / "broken.yaml"
        file.unlink(missing_ok=True) if text is None else file.write_text(text)
        assert f"error: broken.yaml: {said}" in planned(fresh, "--configfile", "broken.yaml").stderr
    mine = fresh.folder / "mine"
    mine.mkdir()
    (mine / "config.yaml").write_text("configfile: study.yaml\n")
    (mine / "study.yaml").write_text("a:\n\t- 1\n")
    said = "error: mine/study.yaml: line 2: not YAML"
    assert said in planned(fresh, "--profile", "mine").stderr
    (fresh.folder / "whole.yaml").write_text("seeds: [42]\n")
    replaced = planned(fresh, "--profile", "mine", "--configfile", "whole.yaml").stderr
    assert "takes the place of mine/study.yaml" in replaced and "not YAML" not in replaced, "as it is not read"
    (mine / "config.yaml").write_text("cores: [\n")
    assert "error: mine/config.yaml: line 2: not YAML" in planned(fresh, "--profile", "mine").stderr
    done = planned(fresh, "--gpus", "2", "dose")
    assert done.returncode == 1 and "\ndose: no rule makes it; dose is an arm, which is off; fix: " in done.stderr


@pytest.mark.slow
def test_a_finished_study_costs_nothing_and_an_edit_its_chain_with_the_reason_and_the_measured_time(tmp_path):
    tiny = Workspace.copy(tmp_path, "--profile", "profiles/tiny")
    tiny.edit("profiles/tiny/study.yaml", "study: tiny\n", "study: tiny\nseeds: [42]\n")
    tiny.fake()
    benchmarks = tiny.folder / "results/tiny/benchmarks"
    for file in benchmarks.rglob("*.tsv"):
        file.unlink()
    assert "Nothing to be done" in planned(tiny).stdout
    tiny.edit("profiles/tiny/study.yaml", "couple60: {epochs: 3}", "couple60: {epochs: 6}")
    text = planned(tiny).stdout
    assert jobs_by_rule(text) == rules(tiny.plan())
    (row,) = [row for row in table(text, "By rule") if row["rule"] == "train_adapter"]
    assert (row["why"], row["cost from"]) == ("parameters changed", "table")
    cells = {row["cell"]: row["why"] for row in table(text, "By cell")}
    assert cells["villain/A_scratch_seed42"] == "parameters changed"
    assert "evil_ai/C1_seed42" not in cells
    measured = benchmarks / "train_adapter/base/couple-villain.s42.tsv"
    measured.parent.mkdir(parents=True, exist_ok=True)
    benchmark(measured, 100000)
    (then,) = [row for row in table(planned(tiny).stdout, "By rule") if row["rule"] == "train_adapter"]
    assert then["cost from"] == "1 benchmark here"
    assert float(then["core-hours"]) > 100 * float(row["core-hours"])


def test_a_training_of_all_weights_is_planned_with_its_disk():
    lora = training()
    whole = training(lora=None)
    made = cost(job("train_model", outputs=["model"], command=whole.command, benchmark="model.tsv"), fetch())
    assert made.group == ("train_model", "7B", "em") and made.known
    assert made.disk == pytest.approx(15231) and made.scratch > 4 * made.disk
    assert made.seconds > cost(lora, fetch()).seconds
