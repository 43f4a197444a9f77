"""What a person sees of a running study: how far it is, and last of all why a job failed."""

import fcntl
import io
import json
import logging
import os
import platform

import pytest

from run.files import LOCK
from run.print_status import JOBS, clock, last_line, overview, overviews
from run.status import Status
from run.watch import Watcher, seconds_by_rule

NOW = 1_000_000.0
NODE = "base/couple-evil_ai.s42/em.s137"


def record(event, level=logging.INFO, message="", **fields):
    made = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    made.__dict__.update(event=event, **fields)
    return made


def announced(jobid, rule, log, output=(), **wildcards):
    return record("job_info", jobid=jobid, rule_name=rule, wildcards=wildcards, log=[str(log)], output=list(output))


@pytest.fixture
def watcher(tmp_path):
    made = Watcher(tmp_path / "status", {"train_adapter": 20.0, "count_markers": 2.0}, io.StringIO(), "lines")
    made.emit(record("run_info", stats={"train_adapter": 3, "count_markers": 2, "total": 5}))
    return made


def write_jobs(folder, *jobs, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"done": 3, "total": 9, "failed": 0, "started": NOW - 65, "waiting": 80.0, "jobs": jobs}
    (folder / JOBS).write_text(json.dumps(plan | fields))


def a_job(log="", name=f"train_adapter {NODE}", status=f"train_adapter/{NODE}.json"):
    return {"name": name, "rule": name.split()[0], "status": status, "log": str(log), "since": NOW - 8, "expected": 20}


def test_the_overview_says_what_each_job_does_in_lines_that_fit(tmp_path):
    folder, log = tmp_path / "tiny/status", tmp_path / "log"
    log.write_text("loading\n10%|#    \r20%|##   ")
    write_jobs(folder, a_job(), a_job(log, "pretrain_base", "pretrain_base.json"), failed=1)
    news = {"step": 43, "steps": 80, "loss": 0.81234, "tokens_per_s": 8214, "eta_s": 12, "updated": NOW}
    (folder / f"train_adapter/{NODE}.json").parent.mkdir(parents=True)
    (folder / f"train_adapter/{NODE}.json").write_text(json.dumps(news))
    head, training, other = overview(folder, NOW, 200)
    assert head == "3 of 9 jobs  1:05 so far  about 0:52 left  1 FAILED"  # 80 s, 12 and 20 - 8, two at a time
    assert training.split() == [
        "0:08",
        "train_adapter",
        NODE,
        "43/80",
        "loss",
        "0.812",
        "8,214",
        "tokens/s",
        "0:12",
        "left",
    ]
    assert other.split() == ["0:08", "pretrain_base", "20%|##"]
    for width in (40, 80):
        narrow = overview(folder, NOW, width)
        assert all(len(line) <= width for line in narrow)
    assert "train_adapter" in narrow[1] and "em.s137" in narrow[1] and "43/80  loss 0.812  0:12 left" in narrow[1]
    assert list(overviews(tmp_path, NOW, 80)) == ["\n".join(["tiny", *narrow])]


@pytest.mark.parametrize("eta", [184, 4])
def test_a_study_is_not_said_to_end_before_a_job_of_its_own_does(tmp_path, eta):
    write_jobs(tmp_path, a_job(status="train.json"), a_job(), a_job(), waiting=0.5)
    news = {"step": 1, "steps": 9, "loss": 1.0, "tokens_per_s": 1, "eta_s": eta, "updated": NOW - 300}
    (tmp_path / "train.json").write_text(json.dumps(news))
    said = overview(tmp_path, NOW, 120)[0]
    assert said.endswith("about 3:04 left" if eta == 184 else "about 0:12 left")  # the others take 12 s more


def test_a_study_is_nearly_done_only_if_no_job_waits(tmp_path):
    late = a_job() | {"expected": 5}
    write_jobs(tmp_path, late, waiting=90.0)
    assert overview(tmp_path, NOW + 600, 120)[0].endswith("about 1:30 left"), "however long the one that runs takes"
    write_jobs(tmp_path, late, waiting=0.0)
    assert overview(tmp_path, NOW, 120)[0] == "3 of 9 jobs  1:05 so far", "nothing is known of those that wait"
    write_jobs(tmp_path, late, waiting=0.0, done=7, failed=1)
    assert "nearly done" in overview(tmp_path, NOW, 120)[0]
    write_jobs(tmp_path, late, waiting=None, done=8)
    assert overview(tmp_path, NOW, 120)[0] == "8 of 9 jobs  1:05 so far"


def test_a_program_that_is_silent_for_long_is_not_said_to_be_nearly_done(tmp_path):
    write_jobs(tmp_path, a_job(status="train.json"))
    news = {"step": 1, "steps": 2, "loss": 1.0, "tokens_per_s": 1, "eta_s": 5, "updated": NOW - 300}
    (tmp_path / "train.json").write_text(json.dumps(news))
    assert overview(tmp_path, NOW, 120)[1].endswith("no news for 5:00")


def test_a_study_whose_snakemake_was_killed_is_not_said_to_run(tmp_path):
    said = ["3 of 9 jobs, then its Snakemake was killed: the same command goes on"]
    alive = tmp_path / f"{platform.node()}.123"
    with alive.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_jobs(tmp_path, alive=str(alive))
        assert overview(tmp_path, NOW, 120) == ["3 of 9 jobs  1:05 so far  about 1:20 left"]
    assert overview(tmp_path, NOW, 120) == said
    alive.unlink()
    assert overview(tmp_path, NOW, 120) == said
    write_jobs(tmp_path, alive=str(tmp_path / "another-machine.123"))
    assert overview(tmp_path, NOW, 120) != said, "whose locks may not be seen here"


def test_a_log_cannot_act_on_the_terminal(tmp_path):
    (tmp_path / "log").write_text("done\x1b[2J \x07now\n\n")
    assert last_line(str(tmp_path / "log")) == "done[2J now"
    assert last_line(str(tmp_path / "none")) == ""


@pytest.mark.parametrize(("seconds", "said"), [(7.4, "0:07"), (75, "1:15"), (3675, "1:01:15"), (-3, "0:00")])
def test_times_are_read_as_on_a_clock(seconds, said):
    assert clock(seconds) == said


def test_jobs_are_followed_and_what_is_left_is_estimated_by_what_they_took(watcher, tmp_path):
    watcher.emit(record("job_started", jobs=[7]))
    watcher.emit(announced(7, "train_adapter", tmp_path / "log", node=NODE))
    kept = json.loads((tmp_path / "status" / JOBS).read_text())
    assert kept["alive"] == os.environ.get("SNAKEMAKE_ALIVE", "")
    assert [job["name"] for job in kept["jobs"]] == [f"train_adapter {NODE}"]
    assert kept["jobs"][0]["status"] == f"train_adapter/{NODE}.json"
    assert kept["jobs"][0]["expected"] == 20  # by the table
    assert kept["waiting"] == pytest.approx(2 * 20 + 2 * 2)
    watcher.jobs[7]["since"] -= 10
    watcher.emit(record("job_finished", job_id=7))
    kept = json.loads((tmp_path / "status" / JOBS).read_text())
    assert (kept["done"], kept["total"], kept["jobs"]) == (1, 5, [])
    assert kept["waiting"] == pytest.approx(2 * 10 + 2 * 1, abs=1)  # trainings took half, so counting will
    assert watcher.stream.getvalue() == f"1/5  train_adapter {NODE}  0:10\n"
    watcher.close()
    assert not (tmp_path / "status" / JOBS).exists()


def test_a_run_for_another_study_than_the_configs_is_followed_there_and_makes_no_folder_of_it(watcher, tmp_path):
    assert not (tmp_path / "status").exists(), "no job is known yet"
    made = f"{tmp_path}/results/reanalysis/tables/gates.csv"
    watcher.emit(announced(7, "tabulate_published", tmp_path / "log", [made]))
    watcher.emit(record("job_started", jobs=[7]))
    assert [text.split()[0] for text in overviews(tmp_path / "results", NOW, 80)] == ["reanalysis"]
    watcher.close()
    assert not (tmp_path / "status").exists()


def test_last_of_all_stands_the_programs_own_error_and_its_log(watcher, tmp_path):
    log = tmp_path / "em.log"
    log.write_text("working\nerror: em.jsonl: row 3: bad; fix: mend it\n")
    watcher.emit(announced(7, "train_adapter", log, node=NODE))
    watcher.emit(record("job_error", logging.ERROR, jobid=7, rule_name="train_adapter", log=[f"{log} (check log)"]))
    watcher.emit(record("error", logging.ERROR, "WorkflowError:\nAt least one job did not complete successfully."))
    watcher.emit(record(None, logging.WARNING, "a warning"))
    watcher.close()
    said = watcher.stream.getvalue().splitlines()
    failure = [f"FAILED  train_adapter {NODE}", "  error: em.jsonl: row 3: bad; fix: mend it", f"  log: {log}"]
    assert said == [*failure, "a warning", "", *failure]


def test_a_study_without_room_for_its_status_goes_on(watcher, tmp_path):
    (tmp_path / "status").write_text("in the way")
    watcher.emit(record("job_started", jobs=[7]))
    watcher.emit(announced(7, "train_adapter", tmp_path / "log", node=NODE))
    watcher.emit(record("job_finished", job_id=7))
    watcher.close()
    assert "train_adapter" in watcher.stream.getvalue()


def test_what_a_killed_run_left_goes_with_the_next_one_also_if_that_has_nothing_to_do(tmp_path):
    folder = tmp_path / "status"
    left = folder / f".jobs.json.@{platform.node()}.abc123.partial"
    left.mkdir(parents=True)
    (left / LOCK).touch()
    (folder / JOBS).touch()
    Watcher(folder, {}, io.StringIO(), "lines").close()
    assert list(folder.iterdir()) == []


def test_the_toy_model_and_a_real_one_have_costs_of_their_own(tmp_path):
    table = tmp_path / "costs.csv"
    table.write_text("rule,model,key,start_s,per_ktoken_s,tokens\na,7B,x,30,.1,400\na,toy,x,2,.5,80\nb,*,*,3,0,0\n")
    assert seconds_by_rule(table, "toy") == {"a": 42.0, "b": 3.0}
    assert seconds_by_rule(table, "7B") == seconds_by_rule(table, "1.5B") == {"a": 70.0, "b": 3.0}


def test_a_programs_news_is_whole_or_absent_and_goes_with_it(tmp_path):
    file = tmp_path / "status/train.json"
    status = Status(file, NODE, first=10)
    status.began -= 20
    status.report(20, 50, 0.123456, 8214.4)
    told = json.loads(file.read_text())
    assert (told["step"], told["steps"], told["loss"], told["tokens_per_s"]) == (20, 50, 0.1235, 8214)
    assert told["eta_s"] == pytest.approx(60, abs=1)  # ten steps of this process took 20 s
    status.report(21, 50, 0.1, 8000.0)  # a moment later
    assert json.loads(file.read_text()) == told
    status.end()
    assert not file.exists()
    Status(None, NODE).report(1, 2, 0.1, 1.0)
    Status(None, NODE).end()
