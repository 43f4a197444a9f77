import functools
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from workspace import Workspace, jobs_of


@pytest.fixture(scope="session")
def built(once):
    """The published study, finished as far as Snakemake can tell: every output faked, every record written."""
    return Workspace(once("built", lambda folder: Workspace.copy(folder).fake()))


@dataclass(frozen=True)
class Published:
    """Dry runs of the published study as it is, from nothing: each is made once."""

    workspace: Workspace
    once: Callable[[str, Callable[[Path], object]], Path]

    @functools.cache  # noqa: B019 - lives as long as the tests
    def printed(self, *arguments):
        def make(file):
            file.write_text(self.workspace.snakemake("-n", "-p", *arguments).stdout)

        return self.once(f"published.{sha256(repr(arguments).encode()).hexdigest()}", make).read_text()

    @functools.cache  # noqa: B019
    def jobs(self, *arguments):
        return jobs_of(self.printed(*arguments))


@pytest.fixture(scope="session")
def published(once):
    return Published(Workspace(once("published", Workspace.copy)), once)


@pytest.fixture
def study(built, tmp_path):
    """A copy of it to edit."""
    return built.copied(tmp_path / "study")


@pytest.fixture
def fresh(tmp_path):
    """A fresh clone of the workflow, nothing built."""
    return Workspace.copy(tmp_path / "fresh")
