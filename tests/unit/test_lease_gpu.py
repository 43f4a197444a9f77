"""GPU leases: never two programs on one card, whoever dies, and nothing leased that someone else uses."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from run import lease_gpu
from run.program import InputError

LEASE = [sys.executable, str(Path(lease_gpu.__file__)), "--gpus"]

# What a leased program does here: claim its cards in a shared folder, and say if one was claimed already.
JOB = """
import os, sys, time
held = []
for card in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    try:
        os.close(os.open(f"{sys.argv[1]}/{card}", os.O_CREAT | os.O_EXCL)); held.append(card)
    except FileExistsError:
        print("OVERLAP on", card, flush=True)
time.sleep(float(sys.argv[2]))
for card in held: os.remove(f"{sys.argv[1]}/{card}")
print("cards", ",".join(sorted(held)), flush=True)
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A lock folder, a folder of card users, and a pool file of pretend cards."""
    (tmp_path / "users").mkdir()
    (tmp_path / "claims").mkdir()
    return tmp_path


def pool(room: Path, count: int) -> str:
    path = room / f"pool{count}.json"
    if not path.exists():  # a job that was started before may be reading it
        cards = [f"GPU-{letter}" for letter in "abcdefgh"[:count]]
        path.write_text(json.dumps({"gpus": cards, "users": f"{room}/users"}))
    return str(path)


def start(
    room: Path, cards: int, gpus: int, *command: str, share: int = 1, **environment: str
) -> subprocess.Popen[str]:
    arguments = [
        *LEASE,
        str(gpus),
        "--share",
        str(share),
        "--lock-dir",
        f"{room}/locks",
        "--pool",
        pool(room, cards),
        "--",
        *command,
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "LEASE_"))}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean | environment
    )


def granted(process: subprocess.Popen[str]) -> str:
    """Wait for the grant and return its line."""
    assert process.stderr is not None
    return process.stderr.readline()


SHOW = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.getpid())"]
SLEEP = ["sleep", "60"]


@pytest.fixture
def reaper() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes put in this list are ended with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_many_programs_on_few_cards_never_overlap_and_all_run(room: Path) -> None:
    jobs = [
        start(room, 3, 2 if number % 4 == 0 else 1, sys.executable, "-c", JOB, f"{room}/claims", "0.05")
        for number in range(9)
    ]
    answers = [job.communicate(timeout=300) for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 9
    assert "OVERLAP" not in "".join(out for out, _ in answers)
    assert sum(out.count(",") for out, _ in answers) == 3  # the three jobs that asked for two cards had two


def test_each_grant_is_one_line_that_names_card_wait_pid_and_time(room: Path) -> None:
    job = start(room, 2, 2, *SHOW)
    out, err = job.communicate(timeout=300)
    assert out.split() == ["0,1", str(job.pid)]  # exec: the program has the pid that the lease had
    lines = [line.partition(" at ") for line in err.splitlines()]
    assert [said for said, _, _ in lines] == [
        f"lease_gpu: GPU 0 (GPU-a) granted after 0 s to pid {job.pid}",
        f"lease_gpu: GPU 1 (GPU-b) granted after 0 s to pid {job.pid}",
    ]
    now = datetime.now(UTC)
    assert all(now - datetime.fromisoformat(time) < timedelta(hours=1) for _, _, time in lines)


def test_a_killed_program_frees_its_card_at_once(room: Path, reaper: list[subprocess.Popen[str]]) -> None:
    first = start(room, 1, 1, *SLEEP)
    reaper.append(first)
    assert "GPU-a" in granted(first)
    second = start(room, 1, 1, *SHOW)
    reaper.append(second)
    time.sleep(0.4)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    out, err = second.communicate(timeout=300)
    assert out.split()[0] == "0" and "granted" in err


def test_the_lock_is_held_by_the_program_itself_through_exec(room: Path, reaper: list[subprocess.Popen[str]]) -> None:
    job = start(room, 1, 1, *SLEEP)
    reaper.append(job)
    granted(job)
    while Path(f"/proc/{job.pid}/comm").read_text().strip() != "sleep":
        time.sleep(0.01)
    assert lease_gpu.try_lock(room / "locks" / "GPU-a.lock") is None
    assert lease_gpu.try_lock(room / "locks" / "GPU-b.lock") is not None


def test_an_orphan_that_still_uses_the_card_keeps_it_from_being_leased(room: Path) -> None:
    # The child closes all it inherited, as subprocess and vLLM's workers do, so it does not hold the lock.
    orphan = subprocess.Popen([*SLEEP], close_fds=True)
    try:
        (room / "users" / "GPU-a").write_text(str(orphan.pid))
        job = start(room, 2, 1, *SHOW)
        out, _ = job.communicate(timeout=300)
        assert out.split()[0] == "1"
        alone = start(room, 1, 1, *SHOW)
        time.sleep(0.5)
        assert alone.poll() is None
    finally:
        orphan.kill()
        orphan.wait()
    out, err = alone.communicate(timeout=300)
    assert out.split()[0] == "0" and err.count("granted") == 1


def test_a_card_that_becomes_busy_while_it_is_locked_is_given_back(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([["", ""], ["used by pid 7", ""], ["used by pid 7", ""], ["used by pid 7", ""]])
    monkeypatch.setattr(
        lease_gpu, "cards", lambda *_: [lease_gpu.Gpu(str(i), f"GPU-{i}", b) for i, b in enumerate(next(looks))]
    )
    monkeypatch.setattr(lease_gpu, "POLL_SECONDS", 0.01)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.uuid for gpu in lease_gpu.lease(1, str(room / "locks"), 0, None)] == ["GPU-1"]
    assert lease_gpu.try_lock(room / "locks" / "GPU-0.lock") is not None


def test_two_requests_for_two_cards_take_turns(room: Path) -> None:
    jobs = [start(room, 2, 2, sys.executable, "-c", JOB, f"{room}/claims", "0.2") for _ in range(3)]
    answers = [job.communicate(timeout=300)[0] for job in jobs]
    assert answers == ["cards 0,1\n"] * 3


def test_programs_that_share_spread_over_the_cards_and_keep_whole_leases_out(
    room: Path, reaper: list[subprocess.Popen[str]]
) -> None:
    reaper += [start(room, 2, 1, *SLEEP, share=2) for _ in range(4)]
    assert sorted(granted(job).split()[2] for job in reaper) == ["0", "0", "1", "1"]
    (room / "users" / "GPU-a").write_text(str(reaper[0].pid))  # one of those that share: no reason to wait
    fifth, whole = start(room, 2, 1, *SHOW, share=2), start(room, 1, 1, *SHOW)
    time.sleep(0.5)
    assert fifth.poll() is None and whole.poll() is None
    for job in reaper:
        job.kill()
        job.communicate()
    assert fifth.communicate(timeout=300)[0] and whole.communicate(timeout=300)[0].split()[0] == "0"


def test_a_stranger_on_the_card_keeps_the_first_that_would_share_it_out(room: Path) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        (room / "users" / "GPU-a").write_text(str(stranger.pid))
        job = start(room, 1, 1, *SHOW, share=3)
        time.sleep(0.5)
        assert job.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert job.communicate(timeout=300)[0].split()[0] == "0"


def test_programs_that_wait_for_a_stranger_are_not_taken_for_those_who_share_its_card(tmp_path: Path) -> None:
    taken = lease_gpu.Gpu("0", "GPU-a", busy="used by pid 1")

    def look(_: int) -> list[object]:
        return [place for _ in range(100) for place in lease_gpu.lock_place([taken], 4, tmp_path).values()]

    with ThreadPoolExecutor(4) as waiting:
        assert list(waiting.map(look, range(4))) == [[]] * 4


def test_a_place_is_free_once_those_who_share_the_card_leave_its_share_of_the_memory(
    room: Path, reaper: list[subprocess.Popen[str]]
) -> None:
    def leave(share: float) -> None:
        file = Path(pool(room, 1))
        file.with_suffix(".new").write_text(json.dumps({"gpus": ["GPU-a"], "room": {"GPU-a": share}}))
        file.with_suffix(".new").replace(file)

    leave(0.2)
    reaper.append(start(room, 1, 1, *SLEEP, share=4))
    granted(reaper[0])
    second = start(room, 1, 1, *SHOW, share=4)
    time.sleep(0.5)
    assert second.poll() is None
    leave(0.25)
    assert second.communicate(timeout=300)[0]


def test_a_part_of_several_cards_is_an_error_with_a_fix(room: Path) -> None:
    out, err = start(room, 4, 2, *SHOW, share=2).communicate(timeout=300)
    assert not out and "fix: a part of one card, or --share 1" in err


@pytest.mark.parametrize("inherited", ["2", "GPU-c", " 2 ", "GPU-c,-1,GPU-a"])
def test_an_inherited_list_is_kept_by_number_and_by_uuid(room: Path, inherited: str) -> None:
    out, err = start(room, 4, 1, *SHOW, CUDA_VISIBLE_DEVICES=inherited).communicate(timeout=300)
    assert out.split()[0] == "2", err
    assert "GPU 2 (GPU-c)" in err


def test_a_mig_slice_passes_through_as_it_is_named(room: Path) -> None:
    out, _ = start(room, 2, 1, *SHOW, CUDA_VISIBLE_DEVICES="MIG-1234").communicate(timeout=300)
    assert out.split()[0] == "MIG-1234"


@pytest.mark.parametrize(
    ("inherited", "gpus", "said"),
    [("", 1, "1 GPUs asked for, 0 in"), ("7", 1, "names 0 cards"), ("GPU-", 1, "names 2 cards"), ("0,0", 2, "2 GPUs")],
)
def test_a_list_that_cannot_be_met_is_an_error_with_a_fix(room: Path, inherited: str, gpus: int, said: str) -> None:
    job = start(room, 2, gpus, *SHOW, CUDA_VISIBLE_DEVICES=inherited)
    out, err = job.communicate(timeout=300)
    assert job.returncode == 1 and not out
    assert said in err and "fix: " in err and len(err.splitlines()) == 1


def test_zero_gpus_runs_the_program_with_none_visible_and_asks_no_driver(room: Path) -> None:
    done = subprocess.run(
        [*LEASE, "0", "--", *SHOW], capture_output=True, text=True, env={"PATH": "", "CUDA_VISIBLE_DEVICES": "0"}
    )
    assert len(done.stdout.split()) == 1 and done.stderr == ""  # the pid alone: the list of cards is empty


def test_the_exit_status_is_the_programs(room: Path) -> None:
    job = start(room, 1, 1, sys.executable, "-c", "raise SystemExit(7)")
    job.communicate(timeout=300)
    assert job.returncode == 7


def test_no_driver_no_program_and_a_bad_pool_are_errors_with_a_fix(room: Path) -> None:
    cases = [
        ([*LEASE, "1", "--", "true"], "nvidia-smi: not found"),
        ([*LEASE, "1"], "no program given"),
        ([*LEASE, "-1", "--", "true"], "negative"),
        ([*LEASE, "1", "--pool", "{}", "--", "true"], "not a pool"),
        ([*LEASE, "0", "--", "no-such-program"], "cannot run it"),
    ]
    for command, said in cases:
        done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""})
        assert done.returncode == 1 and said in done.stderr and "fix: " in done.stderr, done.stderr


def test_the_waiting_line_says_who_is_in_the_way(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(lease_gpu, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(lease_gpu, "REPORT_SECONDS", 0.0)
    looks = iter([["used by pid 7"], [""], [""]])
    monkeypatch.setattr(
        lease_gpu, "cards", lambda *_: [lease_gpu.Gpu(str(i), f"GPU-{i}", b) for i, b in enumerate(next(looks))]
    )
    lease_gpu.lease(1, str(room / "locks"), 0, None)
    assert "has waited 0 s for 1 of 1 GPUs (GPU 0: used by pid 7)" in capsys.readouterr().err


def test_lock_files_can_be_used_by_every_user_of_the_node(room: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = lease_gpu.make_lock_dir(str(room / "deep" / "locks"))
        lock = lease_gpu.try_lock(folder / "GPU-a.lock")
    finally:
        os.umask(before)
    assert lock is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "GPU-a.lock").stat().st_mode) == 0o644


SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*) printf '%s, %s, 80000, %s\\n' 0 GPU-a 3 1 GPU-b 40000 2 GPU-c 5 3 GPU-d 31 4 GPU-e '[N/A]' ;;
  *) printf 'GPU-c, 4242, /usr/bin/python, with comma\\nGPU-d, 99, nvidia-cuda-mps-server\\n' ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return program


def test_a_card_in_use_is_seen_by_its_processes_or_by_its_memory(smi: Path) -> None:
    # In a container nvidia-smi lists no foreign processes, but it does show their memory.
    gpus = lease_gpu.cards(1024, None)
    busy = {gpu.uuid: gpu.busy for gpu in gpus}
    assert busy == {
        "GPU-a": "",
        "GPU-b": "40000 MiB used by a process that is not visible here",
        "GPU-c": "used by pid 4242",
        "GPU-d": "",  # the MPS server sits on every card
        "GPU-e": "",  # no memory figure
    }
    assert [round(gpu.room, 2) for gpu in gpus] == [1.0, 0.5, 1.0, 1.0, 1.0]


def test_a_failing_driver_is_an_error_with_a_fix(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    with pytest.raises(InputError, match=r"failed \(NVIDIA-SMI has failed\); fix: "):
        lease_gpu.cards(1024, None)
