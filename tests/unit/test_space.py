"""Room is what can really be written: in memory, no more than the machine and the cgroup leave."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from run import space
from run.space import file_system, free_space, is_full, memory_left

MIB = 2**20


def make_group(folder, limit, usage, dropped, names=("memory.max", "memory.current", "inactive_file")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {dropped}\n")


@pytest.mark.parametrize(
    ("own", "path", "names"),
    [
        ("0::/a/b\n", "a/b", space.FILES[0]),
        ("0::/\n", "", space.FILES[0]),  # in a container's own cgroup namespace
        ("0::/docker/f00\n", "", space.FILES[0]),  # in a container that sees the host's path
        ("5:cpu:/x\n4:memory:/a/b\n0::/\n", "memory/a/b", space.FILES[1]),
        ("0::/a/b/c\n", "a/b", space.FILES[0]),  # a limit on a group above
    ],
)
def test_memory_that_a_cgroup_leaves_is_its_limit_less_what_it_cannot_drop(tmp_path, own, path, names):
    (tmp_path / "own").write_text(own)
    make_group(tmp_path / "cgroup" / path, 700 * MIB, 300 * MIB, 100 * MIB, names)
    machine, *left = memory_left(tmp_path / "cgroup", tmp_path / "own")
    assert machine > 0 and left == [500 * MIB]


def test_a_cgroup_without_limit_leaves_what_the_machine_has(tmp_path):
    (tmp_path / "own").write_text("0::/\n")
    make_group(tmp_path / "cgroup", "max", 300, 100)
    assert len(list(memory_left(tmp_path / "cgroup", tmp_path / "own"))) == 1


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no /dev/shm here")
def test_a_folder_in_memory_has_no_more_room_than_memory_and_one_on_disk_does_not_care(monkeypatch):
    monkeypatch.setattr(space, "memory_left", lambda: iter([5]))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert file_system(Path(folder)) == "tmpfs" and free_space(Path(folder) / "not" / "yet") == 5
    if file_system(Path.cwd()) not in space.IN_MEMORY:
        assert free_space(".") > 5


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (ValueError("temperature is set"), False),
    ],
)
def test_only_a_full_disk_is_called_full(error, full):
    assert is_full(error) is full
