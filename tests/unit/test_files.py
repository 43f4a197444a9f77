import errno
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from workspace import ROOT

from run import files
from run.files import canonical, partial, sha256_of, write_json, write_jsonl
from run.program import InputError, run
from run.readers import read_json, read_jsonl, read_yaml


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "folder" / "result.json"
    with pytest.raises(RuntimeError), partial(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert not path.exists() and not list(path.parent.iterdir())
    write_json(path, {"b": 1, "a": [2]})
    assert path.read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
    assert os.listdir(path.parent) == ["result.json"]


def test_an_earlier_result_survives_a_failed_attempt_and_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "adapter"
    for content in ("old", "new"):
        with partial(folder) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert os.listdir(folder) == ["new"]
    with pytest.raises(ValueError), partial(folder) as temporary:
        raise ValueError
    assert os.listdir(folder) == ["new"]


WRITER = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the tests inherit that it is ignored
import sys, time
from run.files import partial
from run.program import run

def main():
    with partial(sys.argv[1]) as temporary:
        temporary.write_text("half")
        print("begun", flush=True)
        time.sleep(60)

run(main)
"""


def begun(path, *wrapper):
    """A program that is writing `path`, started by way of a wrapper's command."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow_scripts")}
    command = [*wrapper, sys.executable, "-c", WRITER, str(path)]
    writer = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"begun\n"
    return writer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_ended_by_a_signal_leaves_nothing_half_written(tmp_path, number):
    writer = begun(tmp_path / "result.json")
    writer.send_signal(number)
    assert writer.wait() == 128 + number
    assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path):
    living, killed = begun(tmp_path / "a.json"), begun(tmp_path / "b.json")
    killed.kill()
    killed.wait()
    assert len(os.listdir(tmp_path)) == 2
    write_json(tmp_path / "c.json", 1)
    assert len(os.listdir(tmp_path)) == 2
    assert [name for name in os.listdir(tmp_path) if name.startswith(".a.json.")]
    living.terminate()
    living.wait()
    assert os.listdir(tmp_path) == ["c.json"]


REMOVER = """
import os, sys
from run.files import remove

removed = []

def kill_at_second(event, arguments):
    if event == "os.remove":
        removed.append(arguments)
        if len(removed) == 2:
            os.kill(os.getpid(), 9)

sys.addaudithook(kill_at_second)
remove(sys.argv[1])
"""


def test_a_leftover_is_removed_under_its_lock_so_that_no_folder_is_taken_from_who_has_just_made_it(
    tmp_path, monkeypatch
):
    made = tmp_path / f".a.json.@{platform.node()}.x1_y2.partial"
    made.mkdir()  # its lock is not there yet
    removed, original = [], shutil.rmtree

    def watched(folder, **options):
        with open(folder / files.LOCK, "r+") as maker, pytest.raises(BlockingIOError):
            fcntl.flock(maker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed.append(folder)
        original(folder, **options)

    monkeypatch.setattr(files.shutil, "rmtree", watched)
    files.remove_unlocked(made)
    assert removed == [made] and not made.exists()


def test_a_lock_that_is_no_longer_the_folder_s_takes_nothing_from_who_made_another(tmp_path, monkeypatch):
    made = tmp_path / f".a.json.@{platform.node()}.x1_y2.partial"
    made.mkdir()
    original = fcntl.flock

    def late(lock, how):
        """Until it has the lock, another process removes that, and the maker makes its own."""
        (made / files.LOCK).unlink()
        (made / files.LOCK).touch()
        original(lock, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    files.remove_unlocked(made)
    assert (made / files.LOCK).exists()


def test_a_folder_whose_remover_is_killed_is_gone_as_a_whole(tmp_path):
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    for name in ("weights", "optimizer", "state"):
        (folder / name).write_text(name)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow_scripts")}
    killed = subprocess.run([sys.executable, "-c", REMOVER, str(folder)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists() and len(os.listdir(tmp_path)) == 1
    write_json(tmp_path / "next.json", 1)
    assert os.listdir(tmp_path) == ["next.json"]


CONTAINER = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--")


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*CONTAINER, "true"], capture_output=True).returncode != 0,
    reason="no PID namespaces here",
)
def test_alive_is_a_lock_and_not_a_number_that_two_containers_may_share(tmp_path):
    # in its own namespace each of them is process 1, which is also a living process of any other one
    living, killed = begun(tmp_path / "a.json", *CONTAINER), begun(tmp_path / "b.json", *CONTAINER)
    killed.kill()
    killed.stdout.read()  # until the writer itself has ended
    killed.wait()
    third = subprocess.run(
        [*CONTAINER, sys.executable, "-c", "import sys; from run.files import write_json; write_json(sys.argv[1], 1)",
         str(tmp_path / "c.json")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow_scripts")},
    )  # fmt: skip
    assert third.returncode == 0
    assert sorted(name[:7] for name in os.listdir(tmp_path)) == [".a.json", "c.json"]
    living.kill()
    living.wait()


def test_another_machine_s_unfinished_file_is_left_alone(tmp_path):
    (tmp_path / ".a.json.@elsewhere.x1_y2.partial").mkdir()
    write_json(tmp_path / "c.json", 1)
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o002, 0o664, 0o775)]
)
def test_what_a_private_writer_writes_gets_the_mode_that_the_umask_says(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        with partial(tmp_path / "adapter") as temporary:
            temporary.mkdir(mode=0o700)
            (temporary / "weights").touch(mode=0o600)
            (temporary / "link").symlink_to("weights")
        with partial(tmp_path / "table") as temporary:
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"adapter": folder, "weights": file, "link": file, "table": file}


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "let its owner give you the permission .chmod."),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_line_with_the_fix(number, fix, capsys):
    def main():
        raise OSError(number, os.strerror(number), "results/table.csv")

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 1
    said = f"error: results/table.csv: {os.strerror(number)}; fix: {fix}, then give the same command again\n"
    assert re.fullmatch(said, capsys.readouterr().err)


def test_whatever_a_writer_says_of_a_full_disk_it_is_called_full(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left on device: .*weights") as full, partial(tmp_path / "weights"):
        raise RuntimeError("unexpected pos 48832 vs 48720")
    assert full.value.errno == errno.ENOSPC


def test_a_folder_s_hash_follows_names_and_contents_but_not_hidden_files_or_times(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_text("1")
    first = sha256_of(tmp_path / "m")
    (tmp_path / "m" / ".snakemake_timestamp").touch()
    os.utime(tmp_path / "m" / "a", (0, 0))
    assert sha256_of(tmp_path / "m") == first
    (tmp_path / "m" / "a").rename(tmp_path / "m" / "b")
    assert sha256_of(tmp_path / "m") != first


def test_equal_values_have_one_canonical_text():
    assert canonical({"b": 1e-4, "a": {"d": None, "c": "é"}}) == canonical({"a": {"c": "é", "d": None}, "b": 0.0001})


def test_nan_is_never_written_as_a_result(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"rate": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n{"b"\n', "line 2: not JSON"),
        (b"[1]\n", "line 1: not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": 1}\n\n{"a": 1}\n', "line 2: not JSON"),
        (b'{"a": NaN}\n', "line 1: not JSON .NaN is no number"),
        (b'{"a": "\\ud800"}\n', "line 1: not JSON .*surrogates"),
    ],
)
def test_a_damaged_jsonl_names_file_line_and_fix(tmp_path, content, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"rows.jsonl: {said}.*fix:"):
        read_jsonl(path)


def test_rows_are_read_back_as_written(tmp_path):
    rows = [{"text": "line\u2028separator é"}, {"n": 1}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_a_truncated_json_names_the_file(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"a": 1})[:4])
    with pytest.raises(InputError, match="manifest.json: line 1: not JSON"):
        read_json(path)


def test_yaml_is_data_and_says_each_thing_once(tmp_path):
    path = tmp_path / "panel.yaml"
    for text, said in {
        "!!python/object/apply:os.mkdir [hacked]": "line 1: not YAML",
        "a: 1\nb: {c: 1, c: 2}": "line 2: c is duplicated",
        "a: !!timestamp x": "not YAML",
        "a: 2024-99-99": "not YAML",
        "a: &x [*x": "line 1: not YAML",
    }.items():
        path.write_text(text)
        with pytest.raises(InputError, match=rf"panel\.yaml: {said}.*; fix: "):
            read_yaml(path)
    path.write_text("a: &x {b: 1}\nc: *x\nd: *x\n")
    assert read_yaml(path) == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1}}


def test_bad_input_ends_a_program_with_one_line_and_status_1(capsys):
    def main():
        raise InputError("rows.jsonl: line 3: empty; fix: delete it")

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: rows.jsonl: line 3: empty; fix: delete it\n"


def test_what_a_damaged_file_holds_does_not_act_on_the_terminal(capsys):
    def main():
        raise InputError("x.json: not JSON (\x1b[2J\x07)")

    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err == "error: x.json: not JSON (\\x1b[2J\\x07)\n"


def test_a_program_is_one_process_whatever_launcher_it_inherits_the_settings_of(monkeypatch):
    inherited = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1",
                 "ACCELERATE_MIXED_PRECISION": "fp16", "OMPI_COMM_WORLD_SIZE": "2"}  # fmt: skip
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE_OF_MINE", "3")
    left = []
    run(lambda: left.extend(name for name in [*inherited, "WORLD_SIZE_OF_MINE"] if name in os.environ))
    assert left == ["WORLD_SIZE_OF_MINE"]


def test_a_full_card_ends_a_program_with_what_to_set_and_other_errors_keep_their_traceback(capsys):
    import torch

    def main():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nsee the documentation")

    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err.startswith(
        "error: out of GPU memory (CUDA out of memory. Tried to allocate 20 GiB); fix: lower hardware.micro_batch_tokens"
    )
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)
