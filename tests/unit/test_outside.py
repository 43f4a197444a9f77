"""The user's own files and the base's, which may change under a study: known by content."""

import os
import shutil

import pytest
from tiny_model import make_model

from inputs import outside
from inputs.outside import check_unchanged, contents, hashes_of, memory_of
from model.loading import load_tokenizer
from run.files import sha256_of, write_json
from run.program import InputError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("outside") / "model")


@pytest.fixture
def base(whole, tmp_path):
    """A folder of links to a model, with the manifest that was written for it."""
    model = shutil.copytree(whole, tmp_path / "model")
    folder = tmp_path / "inputs/path"
    folder.mkdir(parents=True)
    files = {path.name: path for path in model.iterdir()}
    for name, path in files.items():
        (folder / name).symlink_to(path)
    described = {name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for name, path in files.items()}
    write_json(f"{folder}.manifest.json", {"files": described})
    return folder


def spoil(path):
    """Change its last byte and hide that: the same size and time."""
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_load_refuses_a_base_that_is_not_the_one_of_its_manifest(base, name, monkeypatch):
    monkeypatch.setattr(outside, "LARGE", 10_000)
    assert load_tokenizer(base)
    spoil(base.parents[1] / "model" / name)
    with pytest.raises(InputError, match=rf"{name} is not the file that .*manifest\.json was written for.*; fix: put"):
        load_tokenizer(base)


def test_a_link_into_a_cache_that_was_cleared_says_so(base):
    (base.parents[1] / "model/model.safetensors").unlink()
    with pytest.raises(InputError, match="a link to .*, which is gone .*; fix: delete .*path and run again"):
        load_tokenizer(base)


def test_a_large_file_is_read_again_only_if_its_size_or_time_changed(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(outside, "LARGE", 6)
    monkeypatch.setattr(outside, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    files = {name: tmp_path / name for name in ("small", "large")}
    for name, path in files.items():
        path.write_text(f"a {name} file" if name == "large" else name)
    first = hashes_of(files, memory_of(tmp_path / "made"))
    assert hashes_of(files, memory_of(tmp_path / "made")) == first
    assert read == ["small", "large", "small"]
    os.utime(files["large"])
    assert hashes_of(files, memory_of(tmp_path / "made")) == first
    spoil(files["large"])
    assert hashes_of(files, memory_of(tmp_path / "made"))["large"] == sha256_of(files["large"]) != first["large"]
    assert read.count("large") == 3


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setattr(outside, "LARGE", 1)
    (tmp_path / "rows").write_text("rows")
    (tmp_path / "made").write_text("a file, where the memory's folder would have to be")
    files, memory = {"rows": tmp_path / "rows"}, tmp_path / "made/of"
    assert contents(files, memory) == contents(files, memory)


def test_without_a_manifest_a_base_is_taken_as_it_is(whole):
    check_unchanged(whole)
