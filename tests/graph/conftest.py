import functools
from dataclasses import dataclass

import pytest
from workspace import Workspace, jobs_of


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The published study, finished as far as Snakemake can tell: every output faked, every record written."""
    workspace = Workspace.copy(tmp_path_factory.mktemp("built"))
    workspace.fake()
    return workspace


@dataclass(frozen=True)
class Published:
    """Dry runs of the published study as it is, from nothing: each is made once."""

    workspace: Workspace

    @functools.cache  # noqa: B019 - lives as long as the tests
    def printed(self, *arguments):
        return self.workspace.snakemake("-n", "-p", *arguments).stdout

    def jobs(self, *arguments):
        return jobs_of(self.printed(*arguments))


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    return Published(Workspace.copy(tmp_path_factory.mktemp("published")))


@pytest.fixture
def study(built, tmp_path):
    """A copy of it to edit."""
    return built.copied(tmp_path / "study")


@pytest.fixture
def fresh(tmp_path):
    """A fresh clone of the workflow, nothing built."""
    return Workspace.copy(tmp_path / "fresh")
