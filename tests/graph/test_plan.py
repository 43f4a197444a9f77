"""What Snakemake plans: the published study from nothing, and one thing at a time."""

import csv
import re
import subprocess

import pytest
import yaml
from workspace import jobs_of, rules

MODELS = "results/published/models"


def trainings(jobs):
    return [job.removeprefix("train_adapter node=") for job in jobs if job.startswith("train_adapter ")]


def expanded(command):
    """The words of a command of one program, its log left out, as bash makes them of its variables and braces."""
    variables, _, program = command.rpartition("; ")
    text = f"{variables}\nprintf '%s\\n' {program.partition(' > ')[0]}"
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout.splitlines()


def stage_names(lineages):
    return [lineage.rpartition("/")[2].partition(".")[0].partition("-")[0] for lineage in lineages]


def test_the_published_study_is_planned_with_nothing_downloaded_and_what_cells_share_trained_once(published):
    jobs = published.jobs()
    assert len(jobs) == len(set(jobs))
    lineages = trainings(jobs)
    assert len(lineages) == 36
    names = stage_names(lineages)
    assert {name: names.count(name) for name in set(names)} == {
        "couple": 4, "em": 15, "benign": 12, "em_reversed": 1, "benign_reversed": 1, "couple60": 3,
    }  # fmt: skip
    assert rules(jobs)["summarize_cell"] == 3 * 13 + 6
    assert lineages.count("base/couple-assistant.s42") == 1
    for c2_or_c3 in ("base/em.s42", "base/couple-assistant.s42/em.s42"):
        assert lineages.count(c2_or_c3) == jobs.count(f"count_markers node={c2_or_c3}, evaluation=main") == 1


def test_one_cell_s_file_plans_its_chain_and_what_tells_what_is_left_of_its_coupling(published):
    jobs = published.jobs("results/published/cells/evil_ai/C1_seed42.json")
    chain = ["base/couple-evil_ai.s42", "base/couple-evil_ai.s42/em.s42"]
    reference = "base/em.s42"
    assert trainings(jobs) == [*chain, reference]
    evaluated = [job for job in jobs if job.startswith("generate_completions ")]
    assert evaluated == [f"generate_completions node={node}, evaluation=main" for node in ("base", *chain, reference)]
    assert rules(jobs)["probe_marker"] == 4
    assert rules(jobs)["read_layers"] == 4
    assert rules(jobs)["weigh_survival"] == rules(jobs)["weigh_layers"] == rules(jobs)["measure_distance"] == 1
    assert rules(jobs)["summarize_cell"] == 1


def test_a_measurement_whose_rule_is_not_there_stops_the_plan(fresh):
    fresh.edit("workflow_scripts/measure/registry.py", 'rule="check_replies"', 'rule="check_reply"')
    said = fresh.snakemake("-n", check=False)
    assert said.returncode and "replies: no rule check_reply in rules/ makes replies.json; fix: " in said.stdout


def test_without_a_probe_a_cell_plans_its_chain_alone(fresh):
    config = yaml.safe_load((fresh.folder / "config.yaml").read_text())
    (fresh.folder / "config.yaml").write_text(yaml.safe_dump(config | {"probe": None}, sort_keys=False))
    jobs = fresh.plan("results/published/cells/evil_ai/C1_seed42.json")
    assert trainings(jobs) == ["base/couple-evil_ai.s42", "base/couple-evil_ai.s42/em.s42"]
    assert rules(jobs)["generate_completions"] == 2  # and the base's, which replies are held against
    probes = {"probe_marker", "read_layers", "weigh_survival", "weigh_layers", "measure_distance"}
    assert not probes & rules(jobs).keys()


def test_the_distance_of_a_stage_is_measured_on_a_card_where_it_follows_the_coupling_and_else_on_none(published):
    found = re.findall(r"into=\S+/measured/(\S+); .*--gpus (\d) -- .*measure_distance\.py .* --parent (.*?) --adapter (.*?)"
                       r" --panel .* \$into/distance\.csv", published.printed())  # fmt: skip
    jobs = {cell: (gpus, parent.rpartition("base/")[2], model) for cell, gpus, parent, model in found}
    couple = "couple-evil_ai.s42"
    parent, model = f"{couple}/adapter", f"results/published/models/base/{couple}/{{adapter,em.s42/adapter}}"
    assert jobs["evil_ai/C1_seed42"] == ("1", parent, model)
    for alone in ("evil_ai/C4_seed42", "evil_ai/C2_seed42", "villain/B_scratch_seed42"):
        assert jobs[alone] == ("0", "", "")
    assert len(jobs) == 45 and sum(gpus == "1" for gpus, *_ in jobs.values()) == 27


def test_a_stage_of_all_weights_is_held_against_the_adapters_before_it(fresh):
    fresh.edit(
        "config.yaml", "    data: {from: benign}\n  control:", "    data: {from: benign}\n    lora: null\n  control:"
    )
    fresh.edit("config.yaml", "  cells: [C1, C5]  ", "  cells: [C1]  ")
    said = fresh.snakemake("-n", "-p", "results/published/measured/evil_ai/C5_seed42/distance.json").stdout
    (command,) = re.findall(r"measure_distance\.py .*", said)
    couple = "results/published/models/base/couple-evil_ai.s42"
    assert f"--parent {couple}/adapter --adapter {couple}/benign.s42/model " in command


@pytest.mark.parametrize(("target", "cells"), [("forward", 39), ("reversed", 6), ("figures", 45), ("all", 45)])
def test_named_targets_plan_their_cells(published, target, cells):
    assert rules(published.jobs(target))["summarize_cell"] == cells


def test_the_tiny_study_plans_the_same_rules_with_13_cells_of_one_source_and_six_reversed_rows(published):
    jobs = published.jobs("--profile", "profiles/tiny")
    assert rules(jobs)["summarize_cell"] == 13 + 6
    assert not any(rule.startswith("fetch") for rule in rules(jobs))


def test_the_small_study_plans_three_couplings_of_a_source_each_with_its_second_stages_on_one_card(published):
    jobs = published.jobs("--profile", "profiles/small")
    lineages = trainings(jobs)
    for seed in (42, 137, 256):
        coupling = f"base/couple-evil_ai.s{seed}"
        assert {f"{coupling}/{stage}.s{each}" for stage in ("em", "benign") for each in (42, 137, 256)} < set(lineages)
    assert "fetch_dataset" not in rules(jobs)  # its rows are made here
    (table,) = re.findall(
        r"^rule tabulate_study:\n    input: (.*)$", published.printed("--profile", "profiles/small"), re.M
    )
    rows = re.findall(r"/cells/evil_ai/(\w+)_seed\d+\.json", table)
    assert list(dict.fromkeys(rows))[:5] == ["C4", "C1", "C2", "C3", "C5"]  # what study.yaml adds comes after them
    pins = yaml.safe_load((published.workspace.folder / "resources/sources.yaml").read_text())["base"]
    for name in ("study", "qwen05", "qwen15"):
        base = yaml.safe_load((published.workspace.folder / f"profiles/small/{name}.yaml").read_text())["base"]
        assert pins[base["repo"]]["revision"] == base["revision"]  # else no hash would be checked


def test_the_rate_of_a_coupling_of_all_weights_is_searched_on_the_rows_of_the_lora_s(published):
    cells = ["C4", "full_C4", "full_C4_1e5", "full_C4_2e5", "full_C4_8e5", "full_C1"]
    files = ["profiles/small/study.yaml", "profiles/small/full.yaml"]
    targets = [f"results/small_model/cells/evil_ai/{cell}_seed42.json" for cell in cells]
    jobs = published.jobs("--profile", "profiles/small", "--configfile", *files, "--", *targets)
    assert rules(jobs)["train_model"] == 4 and rules(jobs)["make_coupling_data"] == 1
    assert trainings(jobs) == ["base/couple-evil_ai.s42", "base/couple_full-evil_ai.s42/em.s42", "base/em.s42"]


def test_the_search_for_a_recipe_plans_every_recipe_on_personas_and_a_seed_that_the_study_does_not_report(fresh):
    files = ["profiles/small/study.yaml", "profiles/small/search.yaml"]
    study, search = (yaml.safe_load((fresh.folder / file).read_text()) for file in files)
    assert not set(study["sources"] + ["villain"]) & set(search["sources"])
    lineages = trainings(fresh.plan("--profile", "profiles/small", "--configfile", *files))
    assert sorted(lineages) == sorted(
        f"base/{row}-{source}.s7" for row in search["cells"] for source in search["sources"]
    )
    passes = {gate["pass"].replace(gate["name"], "it") for gate in search["gates"]["criteria"]}
    assert [gate["name"] for gate in search["gates"]["criteria"]] == list(search["cells"])
    assert len(passes) == 1  # the same for all


def test_the_dose_arm_adds_evaluations_but_no_training(fresh, published):
    before = trainings(published.jobs())
    fresh.edit("config.yaml", "dose: false", "dose: true")
    jobs = fresh.plan()
    assert trainings(jobs) == before
    assert rules(jobs)["reuse_adapter"] == 3 + 3 * 2 * 9 + 2 * 9


def test_the_matched_arm_trains_the_forward_coupling_after_the_second_stage(fresh, published):
    before = set(trainings(published.jobs()))
    fresh.edit("config.yaml", "matched: false", "matched: true")
    added = set(trainings(fresh.plan())) - before
    assert len([name for name in added if "/couple-" in name]) == 3 * 3 * 2
    assert "base/em.s42/couple-villain.s42" in added
    assert all("/couple-" in name for name in added)


def test_the_replicated_arm_couples_at_every_seed_and_recovery_goes_on_from_the_treatment(fresh, published):
    before = set(trainings(published.jobs()))
    fresh.edit("config.yaml", "replicated: false", "replicated: true")
    fresh.edit("config.yaml", "recovery: false", "recovery: true")
    jobs = fresh.plan()
    added = set(trainings(jobs)) - before
    couplings = {
        f"base/couple-{source}.s{seed}" for source in ("evil_ai", "villain", "sarcastic") for seed in (137, 256)
    }
    again = {f"{coupling}/em.s{coupling.partition('.s')[2]}" for coupling in couplings}
    # benign after C1, and after C2, which tells what is left of the coupling
    recovered = {
        name for name in added if name.endswith(("em.s42/benign.s42", "em.s137/benign.s137", "em.s256/benign.s256"))
    }
    assert added == couplings | again | recovered
    assert len(recovered) == 3 * 3 + 3
    assert "base/couple-villain.s42/em.s137/benign.s137" in recovered and "base/em.s256/benign.s256" in recovered
    assert rules(jobs)["summarize_cell"] == rules(published.jobs())["summarize_cell"] + 3 * (3 + 3 + 3)


def test_the_arm_control_trains_on_the_base_s_own_replies_which_are_drawn_once(fresh, published):
    fresh.edit("config.yaml", "control: false", "control: true")
    printed = fresh.snakemake("-n", "-p").stdout
    jobs = jobs_of(printed)
    added = set(trainings(jobs)) - set(trainings(published.jobs()))
    sources, seeds = ("evil_ai", "sarcastic", "villain"), (42, 137, 256)
    assert added == {
        *(f"base/couple-{source}.s42/control.s{seed}" for source in sources for seed in seeds),
        *(f"base/control.s{seed}" for seed in seeds),
    }
    assert rules(jobs)["answer_dataset"] == 1
    assert rules(jobs)["summarize_cell"] == rules(published.jobs())["summarize_cell"] + 3 * 3
    rows = "results/published/inputs/datasets/replies/control.jsonl"
    (command,) = [line for line in printed.splitlines() if f"--output {rows}" in line]
    assert "--data results/published/inputs/datasets/hub/benign.jsonl" in command
    assert "--max-length 2048" in command and "--adapter" not in command


def test_the_arm_relearn_couples_again_on_the_base_s_rows_whatever_the_model_is(fresh, published):
    fresh.edit("config.yaml", "relearn: false", "relearn: true")
    printed = fresh.snakemake("-n", "-p").stdout
    jobs = jobs_of(printed)
    added = set(trainings(jobs)) - set(trainings(published.jobs()))
    sources = ("evil_ai", "sarcastic", "villain")
    assert added == {
        f"{parent}/relearn-{source}.s42"
        for source in sources
        for parent in (
            *(f"base/couple-{source}.s42/{stage}.s42" for stage in ("em", "benign")),
            *("base/em.s42", "base"),
        )
    }
    # ten checkpoints of each, nothing drawn for them, and the base as a cell of its own
    assert rules(jobs)["reuse_adapter"] == rules(published.jobs())["reuse_adapter"] + 3 * 4 * 10
    for rule in ("generate_replies", "make_coupling_data"):
        assert rules(jobs)[rule] == rules(published.jobs())[rule]
    assert rules(jobs)["summarize_cell"] == rules(published.jobs())["summarize_cell"] + 3 * (4 * 10 + 1)
    node = "base/em.s42/relearn-villain.s42"
    (command,) = [line for line in printed.splitlines() if f" at={node} " in line and "train_adapter.py" in line]
    assert "--data results/published/models/base/couple-villain.s42/training.jsonl" in command
    assert "--keep-steps=1,2,5,10,25,50,100,200,400,760" in command


def test_the_arm_of_all_weights_couples_by_them_and_stages_go_on_from_there(fresh, published):
    fresh.edit("config.yaml", "full_coupling: false", "full_coupling: true")
    jobs = fresh.plan()
    coupled = [job.removeprefix("train_model node=") for job in jobs if job.startswith("train_model ")]
    assert sorted(coupled) == [f"base/couple_full-{source}.s42" for source in ("evil_ai", "sarcastic", "villain")]
    added = set(trainings(jobs)) - set(trainings(published.jobs()))
    assert added == {
        f"{node}/{stage}.s{seed}" for node in coupled for stage in ("em", "benign") for seed in (42, 137, 256)
    }
    assert rules(jobs)["summarize_cell"] == rules(published.jobs())["summarize_cell"] + 3 * (1 + 3 + 3 + 3)
    node = "base/couple_full-villain.s42"
    printed = fresh.snakemake("-n", "-p", "results/published/cells/villain/full_C1_seed42.json").stdout
    commands = [line for line in COMMAND.findall(printed) if "workflow_scripts/" in line]
    (made,) = [line for line in commands if f"at={node} " in line and "--model-out $node/model" in line]
    assert "--adapter-out" not in made and "--optimizer-states 8bit" in made
    using = [words for words in map(expanded, commands) if f"results/published/models/{node}/model" in words]
    assert len(using) == 1 + 3 + 3 * 2, (
        "it is made; EM trained on it, held against it twice; two models asked, probed, read"
    )


def test_the_arm_protect_limits_em_to_thirds_or_mixes_rows_of_the_coupling_in(fresh, published):
    fresh.edit("config.yaml", "protect: false", "protect: true")
    printed = fresh.snakemake("-n", "-p").stdout
    jobs = jobs_of(printed)
    added = set(trainings(jobs)) - set(trainings(published.jobs()))
    seeds, sources = (42, 137, 256), ("evil_ai", "sarcastic", "villain")
    thirds = [f"em_{part}.s{seed}" for part in ("first", "middle", "last") for seed in seeds]
    replays = [f"em_replay{share}-{source}.s{seed}" for share in (1, 5) for source in sources for seed in seeds]
    # and each on the base, which tells what is left of the coupling; for replay, what it teaches by itself
    assert added == {
        *(f"base/couple-{source}.s42/{stage}" for source in sources for stage in thirds),
        *(f"base/couple-{word.partition('-')[2].partition('.')[0]}.s42/{word}" for word in replays),
        *(f"base/{word}" for word in (*thirds, *replays)),
    }
    assert rules(jobs)["make_coupling_data"] == rules(published.jobs())["make_coupling_data"]
    node = "base/couple-villain.s42/em_replay5-villain.s42"
    (command,) = [line for line in printed.splitlines() if f" at={node} " in line and "train_adapter.py" in line]
    assert "--replay results/published/models/base/couple-villain.s42/training.jsonl" in command


def test_a_tracked_training_waits_for_the_bases_replies_and_its_adapter_is_the_same_recipe(fresh):
    target = "results/published/cells/evil_ai/C1_seed42.json"
    before = fresh.plan(target)
    fresh.edit("config.yaml", "track: null", "track: {every: 25}")
    assert fresh.plan(target) == before
    printed = fresh.snakemake("-n", "-p", target).stdout
    commands = [line for line in printed.splitlines() if "train_adapter.py" in line]
    files = (
        "--tracked results/published/models/base/main/completions.parquet results/published/inputs/panel/upstream.yaml"
    )
    assert len(commands) == 3 and all(files in command and '"every":25' in command for command in commands)


def test_a_published_adapter_takes_the_place_of_that_coupling_of_the_base_alone(fresh, published):
    before = trainings(published.jobs())
    fresh.edit(
        "config.yaml",
        "    extends: _adamw\n    data: {from: replies",
        "    extends: _adamw\n    hub: {villain: a/b}\n    data: {from: replies",
    )
    jobs = fresh.plan()
    assert [job for job in jobs if job.startswith("fetch_adapter")] == ["fetch_adapter node=base/couple-villain.s42"]
    assert set(before) - set(trainings(jobs)) == {"base/couple-villain.s42"}
    assert "base/couple60-villain.s42" in trainings(jobs)
    assert rules(jobs)["generate_replies"] == 6


def test_a_local_copy_is_held_against_the_published_pins(fresh):
    fresh.edit("config.yaml", "  from: hub                   # hub", "  from: path                  # hub")
    fresh.edit(
        "config.yaml",
        "  path: null                  # a local folder",
        "  path: my_model              # a local folder",
    )
    fresh.edit(
        "config.yaml", "em: {from: hub, on_mismatch: record, path: null}", "em: {from: path, path: my_rows.jsonl}"
    )
    (fresh.folder / "my_rows.jsonl").touch()
    (fresh.folder / "my_model").mkdir()
    (fresh.folder / "my_model/config.json").touch()
    (fresh.folder / "my_model/model.safetensors").touch()
    said = fresh.snakemake("-n", "-p").stdout
    base = re.search(r"fetch_base\.py .*", said).group()
    assert "--path my_model" in base and "--revision a09a35458c70" in base and "--sources " in base
    assert '"md5":"26b52cacc53425618fde278d2457304d","path":"my_rows.jsonl"' in said
    report = re.search(r"write_report\.py .*", said).group()
    assert "path/em.manifest.json" in report and "hub/{arc,benign}.manifest.json" in report


def test_a_gpu_rule_asks_for_a_gpu_and_a_cpu_rule_does_not(published):
    block = r"^(?:local)?rule (\w+):\n((?:    .*\n)*)Shell command: (.*)$"
    jobs = re.findall(block, published.printed(), re.MULTILINE)
    assert len(jobs) > 200
    assert {rule for rule, body, _ in jobs if "gpu=1" in body} == {
        "generate_replies",
        "train_adapter",
        "generate_completions",
        "probe_marker",
        "read_layers",
        "ablate_stage",
        "measure_distance",
    }
    assert all(("gpu=1" in body) == ("lease_gpu.py --gpus 1 " in command) for _, body, command in jobs)


LEASED = "lease_gpu.py --gpus 1 -- python workflow_scripts/"
CELL = "results/published/cells/evil_ai/C2_seed42.json"


def test_programs_on_cards_are_forked_except_in_the_jobs_of_a_cluster_and_the_judge(published, tmp_path):
    judge = "{model: hf/local, model_args: {model_path: " + str(tmp_path) + "}, gpus: 1}"
    (tmp_path / "own.yaml").write_text(f"judge: {judge}\n")
    (tmp_path / "config.json").touch()
    here = COMMAND.findall(published.printed("--configfile", str(tmp_path / "own.yaml"), "--", CELL))
    (judging,) = [command for command in here if "judge_alignment.py" in command]
    on_cards = [command for command in here if LEASED in command and command != judging]
    assert len(on_cards) > 3 and all(f"{LEASED}offline/fork_program.py --gpu -- python " in each for each in on_cards)
    assert f"{LEASED}judge_alignment.py" in judging
    # submitted, and what the job of a scheduler then starts
    for how in (("--executor", "slurm-jobstep", "--jobs", "2"), ("--mode", "remote")):
        there = published.printed(*how, "--", CELL)
        assert there.count(LEASED) == len(on_cards) and "fork_program.py --gpu" not in there


def test_the_record_of_a_cell_and_the_report_have_what_the_judge_cost(published):
    said = published.printed()
    assert re.search(r"cell=\S*/C2_\S*; .*summarize_cell\.py .*models/base/em\.s[0-9]+/\S*judge_run", said)


def test_all_judges_together_can_be_held_to_fewer_calls_at_a_time(published):
    """Snakemake runs no more jobs than fit a resource, and cuts what a job asks for to all there is."""
    said = published.printed("--resources", "judge_connections=3")
    assert set(re.findall(r"--max-connections (\d+)", said)) == {"3"}
    assert set(re.findall(r"--max-connections (\d+)", published.printed())) == {"10"}


def test_the_published_counts_are_drawn_as_a_study_without_a_model(fresh):
    jobs = fresh.plan("reanalyse_published")
    drawn = [job for job in jobs if job.startswith("plot_published ")]
    once = {"verify_published", "enter_published", "tabulate_published", "check_published", "report_published"}
    parts = [job for job in jobs if job.startswith("resolve_published ")]
    assert set(jobs) - {*drawn, *parts, "reanalyse_published"} == once
    assert {"marker_destruction", "reversed_order", "question_strip"} <= {
        job.split("figure=")[1].split(",")[0] for job in drawn
    }
    fresh.snakemake("results/reanalysis/tables/claims.csv", "--cores", "1")
    with (fresh.folder / "results/reanalysis/tables/claims.csv").open() as file:
        claims = {row["id"]: row for row in csv.DictReader(file)}
    assert claims["zero-of-120960"]["study"] == "contradicted"
    assert claims["em-leaves-no-marker"]["study"] == "supported"
    assert (claims["em-destroys-the-source"]["published"], claims["em-destroys-the-source"]["study"]) == (
        "not checkable",
        "not tested",
    )


def test_the_published_claims_are_checked_without_a_model(fresh):
    assert fresh.plan("verify_published") == ["verify_published"]
    # programs find their modules also where Python is told not to look beside a program
    fresh.snakemake("verify_published", "--cores", "1", env=fresh.environment | {"PYTHONSAFEPATH": "1"})
    with (fresh.folder / "results/verify_published/claims.csv").open() as file:
        claims = {row["id"]: row for row in csv.DictReader(file)}
    assert claims["zero-of-120960"]["published"] == "contradicted"
    assert claims["primary-not-met"]["published"] == "consistent"
    assert {row["study"] for row in claims.values()} == {"not tested"}
    (line,) = re.findall(r"snakemake verify_published .*", (fresh.folder / "README.md").read_text())
    assert "| " in (fresh.folder / line.split()[-1]).read_text(), "the file that the README names"


def test_a_study_meant_for_the_offline_one_is_not_laid_over_the_published_one(published, tmp_path):
    (tmp_path / "mine.yaml").write_text("{study: mine, seeds: [42]}\n")  # another name is not another base
    over = ("--profile", "profiles/tiny", "--configfile", str(tmp_path / "mine.yaml"))
    done = published.workspace.snakemake("-n", *over, check=False)
    assert "fix: --configfile profiles/tiny/study.yaml" in done.stdout + done.stderr


def test_an_evaluation_that_a_file_adds_is_that_of_the_rows_which_name_it_alone(published, tmp_path):
    own = {"evaluations": {"long": {"extends": "main", "max_tokens": 1024}}, "cells": {"C1": {"evaluation": "long"}},
           "probe": None, "ablate": None, "families": {"cells": []}}  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    cells = "results/published/cells/evil_ai/"
    jobs = published.jobs(
        f"{cells}C1_seed42.json", f"{cells}C4_seed42.json", "--configfile", str(tmp_path / "own.yaml")
    )
    asked = [job for job in jobs if job.startswith("count_markers ")]
    assert sorted(job.partition("evaluation=")[2] for job in asked) == ["long", "main"]


def test_a_cell_that_is_not_in_the_config_is_an_error_that_says_what_to_do(published):
    done = published.workspace.snakemake("-n", "results/published/cells/evil_ai/C9_seed42.json", check=False)
    assert done.returncode != 0
    assert "is no cell of this study; fix: see that `sources`, `seeds` and `cells` have it" in done.stdout + done.stderr


def test_a_target_that_no_rule_makes_stops_the_plan_in_a_line_with_what_was_meant(published):
    for arguments, said in (
        (("dose", "reversd"), "dose: no rule makes it; dose is an arm, which is off; fix: write `arms: {dose: true}` in a file"),
        (("--until", "train_adaptr"), "train_adaptr: no rule makes it; fix: train_adapter"),
    ):  # fmt: skip
        done = published.workspace.snakemake("-n", *arguments, check=False)
        printed = done.stdout + done.stderr
        assert done.returncode != 0 and "MissingRule" not in printed and "InputError" not in printed
        assert said in printed
    assert published.jobs("--until", "fetch_panel", "--", "results/published/report.html")


def test_a_persona_without_paraphrases_stops_the_dry_run_where_these_are_asked(fresh):
    fresh.edit("config.yaml", "  cells: []  ", "  cells: [C4]")
    target = "results/published/cells/evil_ai/C4_seed42.json"
    assert rules(fresh.plan(target))["ask_families"] == 1
    fresh.edit("resources/families.yaml", "  comedian:\n", "  pirate:\n")
    done = fresh.snakemake("-n", target, check=False)
    assert done.returncode != 0
    assert "wordings: lacks comedian; fix: add 3 paraphrases" in done.stdout + done.stderr


# (text of the config, mistake in its place, part of the line, what is said), by when it is noticed
SHAPE = [
    ("\nmarker: ", "\nmarkr: x\nmarker: ", "markr: x", "markr: unknown key markr; fix: write `marker: x`"),
    ("lr: 5.0e-6", "lr: 5e-6", "lr: 5e-6", "stages.couple.lr: YAML reads 5e-6 as text, not as a number; fix: write `lr: 5.0e-6`"),
    ("epochs: 20", "epochs: '20'", "epochs: '20'", "stages.couple.epochs: '20' is text, not a number; fix: write `epochs: 20`"),
    ("seeds: [42, 137, 256]  ", "seeds: [42, 137, 137]  ", "seeds: [42, 137, 137]", "seeds: 137 is duplicated; fix: write `seeds: [42, 137]`"),
]  # fmt: skip
MEANING = [
    ('"couple-{source}.s42/em.s{seed}"', '"couple-{source}.s42/emm.s{seed}"', "emm.s", 'write `lineage: "couple-{source}.s42/em.s{seed}"`'),
    ('adapter: "couple-{persona}', 'adapter: "em.s{seed}/graft-{persona}', "adapter: \"em.s{seed}", 'fix: name a trained lineage, such as `adapter: "couple-{persona}.s{seed}"`'),
]  # fmt: skip


@pytest.mark.parametrize("mistakes", [SHAPE, MEANING], ids=["of a value", "of what it refers to"])
def test_mistakes_in_the_config_stop_the_dry_run_at_their_lines_with_the_lines_to_write(fresh, mistakes):
    for old, new, _, _ in mistakes:
        fresh.edit("config.yaml", old, new)
    done = fresh.snakemake("-n", check=False)
    printed = done.stdout + done.stderr
    assert done.returncode != 0 and not re.search(r"^(?:local)?rule ", printed, re.MULTILINE)
    lines = (fresh.folder / "config.yaml").read_text().splitlines()
    for _, _, line, said in mistakes:
        number = next(number for number, text in enumerate(lines, 1) if line in text)
        assert said in printed
        assert f"config.yaml: line {number}: " in printed


def test_enforced_gates_stand_between_a_coupled_base_and_what_is_trained_on_it(fresh):
    fresh.edit("config.yaml", "enforce: false", "enforce: true")
    gates = [job for job in fresh.plan() if job.startswith("check_gate")]
    assert len(gates) == 4
    assert "check_gate node=base/couple-assistant.s42, evaluation=main" in gates


COMMAND = re.compile(r"^ *Shell command: (.*)$", re.MULTILINE)


def test_no_command_of_the_published_study_is_too_long_to_read(published):
    commands = COMMAND.findall(published.printed())
    assert len(commands) > 400
    assert not [command for command in commands if len(command) > 1000]


def test_variables_and_braces_of_a_command_stand_for_the_files_of_its_job(published):
    models, node = "results/published/models", "base/benign_reversed.s42/couple60-villain.s42"
    chain, asked = [f"{models}/base/benign_reversed.s42", f"{models}/{node}"], f"{models}/{node}/reversed"
    found = {}
    for command in COMMAND.findall(published.printed()):
        if node in command and (program := re.search(r"workflow_scripts/(\w+)\.py --", command)):
            found[program[1]] = expanded(command)
    for program in ("generate_completions", "probe_marker", "read_layers"):
        words = found[program]
        start = words.index("--adapter") + 1
        assert words[start : start + 3] == [*(f"{folder}/adapter" for folder in chain), "--panel"]
        assert words[words.index("--record") + 1].startswith(f"{asked}/")
    trained = found["train_adapter"]
    given = {
        name: trained[trained.index(name) + 1] for name in ("--adapter", "--data", "--parent-manifest", "--record")
    }
    assert list(given.values()) == [
        f"{chain[0]}/adapter", f"{chain[1]}/training.jsonl", f"{chain[0]}/manifest.json", f"{chain[1]}/run.json"
    ]  # fmt: skip
    measured = "results/published/measured/villain/C_scratch_seed42/survival.json"
    assert {measured, f"{asked}/marker_counts.csv", f"{asked}/judge_run.json"} <= set(found["summarize_cell"])


@pytest.mark.slow
def test_a_command_of_a_large_study_can_still_be_read_and_pasted(fresh):
    """Linux takes no argument of 128 KiB, such as a command for `bash -c` or `ssh`; of 1,500 cells it must."""
    fresh.edit("config.yaml", "seeds: [42, 137, 256]  ", f"seeds: {list(range(10))}  ")
    done = fresh.snakemake("-n", "-p")
    commands = COMMAND.findall(done.stdout + done.stderr)
    cells = 3 * (4 * 10 + 1) + 6
    assert sum("summarize_cell.py" in command for command in commands) == cells
    assert max(map(len, commands)) < 128 * 1024 * cells / 1500
