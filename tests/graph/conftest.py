import shutil

import pytest
from workspace import Workspace


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The published study, finished as far as Snakemake can tell: every output faked, every record written."""
    workspace = Workspace.copy(tmp_path_factory.mktemp("built"))
    workspace.fake()
    return workspace


@pytest.fixture
def study(built, tmp_path):
    """A copy of it to edit."""
    folder = tmp_path / "study"
    shutil.copytree(built.folder, folder, symlinks=True)
    return Workspace(folder, built.arguments)


@pytest.fixture
def fresh(tmp_path):
    """A fresh clone of the workflow, nothing built."""
    return Workspace.copy(tmp_path / "fresh")
