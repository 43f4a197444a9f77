"""Where compiled code is kept: on the node, the study's own, nobody else's."""

import os

import pytest

from run import caches
from run.caches import PLACES, keep_compiled


@pytest.fixture(autouse=True)
def node(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "NODE", tmp_path)
    for variable in PLACES:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    return tmp_path


def places(base):
    for variable in PLACES:
        os.environ.pop(variable, None)
    keep_compiled(base)
    return [os.environ.get(variable) for variable in PLACES]


def test_jobs_of_a_study_share_one_node_local_folder_and_studies_do_not(node, monkeypatch):
    first = places("results/a/inputs/base/hub")
    assert all(place.startswith(f"{node}/compiled-") for place in first)
    assert len(set(first)) == len(PLACES)
    assert places("results/a/inputs/base/hub") == first
    assert set(places("results/b/inputs/base/hub")).isdisjoint(first)


def test_a_place_that_the_user_chose_stays(node, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", "/my/triton")
    keep_compiled("base")
    assert os.environ["TRITON_CACHE_DIR"] == "/my/triton"
    assert os.environ["VLLM_CACHE_ROOT"].startswith(str(node))


@pytest.mark.parametrize("kind", ["writable", "link", "file"])
def test_a_folder_that_another_user_could_have_filled_is_not_used(node, kind):
    folder = node / f"compiled-{os.getuid()}"
    if kind == "writable":
        folder.mkdir()
        folder.chmod(0o777)
    elif kind == "link":
        (node / "elsewhere").mkdir()
        folder.symlink_to(node / "elsewhere")
    else:
        folder.write_text("")
    assert places("base") == [None, None, None]
