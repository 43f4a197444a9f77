"""A copy of the workflow to plan and run in: the graph under test, with real or faked results."""

import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import snakemake_server
from snakemake_server import SNAKEMAKE

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "README.md", "config.yaml", "rules", "profiles", "resources", "workflow_scripts", "envs")
STUDIES = ROOT / "tests/end_to_end"
# What says how a run went, and not what came out.
RECORDS = re.compile(r"(?:^|[/.])(?:[a-z]+_)?run\.json$|^(?:logs|benchmarks|status|scratch)/|^report\.html$")
FOLDERS = re.compile(r"/results/.*/(?:adapter|checkpoints|model|base/(?:hub|toy|path))$")


@dataclass(frozen=True)
class Workspace:
    """A folder with the workflow's files. arguments: what every snakemake call gets, such as a profile."""

    folder: Path
    arguments: tuple[str, ...] = ()

    @classmethod
    def copy(cls, folder: Path, *arguments: str) -> "Workspace":
        """The workflow's own files (no results) copied to `folder`."""
        for part in PARTS:
            source, target = ROOT / part, folder / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        return cls(folder, arguments)

    @classmethod
    def smallest(cls, folder: Path) -> "Workspace":
        """A copy that builds the study of smallest.yaml, on a pretend GPU of its own; the one that is there, if so."""
        overlays = ["profiles/tiny/study.yaml", str(STUDIES / "small.yaml"), str(STUDIES / "smallest.yaml")]
        arguments = ("--profile", "profiles/tiny", "--configfile", *overlays)
        return cls(folder, arguments) if folder.exists() else cls.copy(folder, *arguments)

    def copied(self, folder: Path) -> "Workspace":
        """A copy of all that is here, results and records of them too."""
        subprocess.run(["cp", "-a", self.folder, folder], check=True)  # a third of shutil's time
        return Workspace(folder, self.arguments)

    @property
    def card(self) -> str:
        """The pretend GPU that jobs in this folder lease."""
        return f"GPU-test{str(self.folder).replace('/', '-')}"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"LEASE_GPU_POOL": json.dumps({"gpus": [self.card]})}

    def results(self) -> dict[str, str]:
        """sha256 of every file of the smallest study that another run has to give again; cells without their `runs`."""
        from run.files import canonical, sha256_of

        found = {}
        root = self.folder / "results/smallest"
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_dir() or RECORDS.search(name) or any(part.startswith(".") for part in name.split("/")):
                continue
            if name.startswith("cells/"):
                found[name] = canonical({**json.loads(path.read_text()), "runs": None})
            else:
                found[name] = sha256_of(path)
        return found

    def snakemake(
        self, *arguments: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Run snakemake here. Raises AssertionError with its output if `check` and it fails."""
        environment = dict(os.environ if env is None else env)
        done = snakemake_server.call(SNAKEMAKE, [*self.arguments, *arguments], self.folder, environment)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def plan(self, *arguments: str) -> list[str]:
        """The jobs a dry run lists (jobs_of)."""
        done = self.snakemake("-n", *arguments)
        return jobs_of(done.stdout + done.stderr)

    def fake(self) -> None:
        """Stand-ins for every output, and Snakemake's records of them, as if the study had been run here."""
        summary = self.snakemake("--summary").stdout.splitlines()
        for line in summary[1:]:
            path = self.folder / line.split("\t")[0]
            if FOLDERS.search(str(path)):
                path.mkdir(parents=True, exist_ok=True)
                path /= "file"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line.split("\t")[0])
        for path in self.folder.glob("results/*/inputs/panel/*.yaml"):  # a plan counts its questions
            shutil.copy(self.folder / "resources/panel.yaml", path)
        self.touch()

    def touch(self) -> None:
        """Take every output for one of this config."""
        self.snakemake("--touch", "--forceall", "--cores", "1", "--quiet", "all")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a file of the copy. Raises AssertionError unless it is there exactly once."""
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))


def jobs_of(text: str) -> list[str]:
    """The jobs in the output of a dry run, as `rule wildcards`, sorted; targets without a product are left out."""
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", text, re.MULTILINE)
    return sorted(
        " ".join([rule, *re.findall(r"^    wildcards: (.*)$", body, re.MULTILINE)])
        for rule, body in jobs
        if "    output: " in body
    )


def rules(jobs: list[str]) -> Counter[str]:
    """How many jobs of each rule."""
    return Counter(job.split()[0] for job in jobs)


def wait_for(condition, seconds: float = 300) -> bool:
    """Whether the condition comes true in that time, which is long for any machine, however busy."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
