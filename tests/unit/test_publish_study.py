import base64
import hashlib
import json
import platform
import shutil
from pathlib import Path

import fake_study
import local_hub
import publish_study
import pytest
from local_hub import LocalHub, Repo, git_blob, sha256
from publish_study import clean_json, collect
from workspace import ROOT

from measure.cells import sealed
from run.files import sha256_of, write_json
from run.program import InputError
from run.readers import read_json

LINEAGES = ("base/couple-evil_ai.s42", "base/couple-evil_ai.s42/em.s42")
CARDS = ROOT / "resources/cards"
TOKEN = "a-token-that-may-write"


class WritableHub(LocalHub):
    """A local Hub that also takes uploads: of LFS files by PUT, of small ones inside the commit."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.private: set[str] = set()
        self.writers = {TOKEN}
        self.server.RequestHandlerClass = writable(self.server.RequestHandlerClass, self)

    def commit(self, name: str, lines: list[dict]) -> str:
        repo, added = self.repos[("models", name)], []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.blobs[value["oid"]]
                repo.large.add(value["path"])
            if "path" in value:
                added.append(value["path"])
        self.commits.append(added)
        repo.commit = hashlib.sha1(f"{repo.commit}{added}".encode()).hexdigest()
        return repo.commit


def writable(base, hub):
    class Handler(base):
        def may_write(self) -> bool:
            return (self.headers.get("authorization") or "").removeprefix("Bearer ") in hub.writers

        def do_POST(self) -> None:
            if not self.path.endswith("/info/lfs/objects/batch"):
                return super().do_POST()
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            objects = [
                {"oid": each["oid"], "size": each["size"]}
                | (
                    {}
                    if each["oid"] in hub.blobs
                    else {"actions": {"upload": {"href": f"{hub.url}/put/{each['oid']}"}}}
                )
                for each in asked["objects"]
            ]
            return self.reply_json({"transfer": "basic", "objects": objects})

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            assert sha256(data) == self.path.rpartition("/")[2]
            hub.blobs[sha256(data)] = data
            self.reply(200, b"", {})

        def api(self, parts, query, body):
            if parts[0] == "validate-yaml":
                return self.reply_json({"warnings": [], "errors": []})
            if parts[0] == "repos":
                wanted = json.loads(body)
                name = f"{wanted['organization']}/{wanted['name']}"
                if not self.may_write() or wanted["organization"] != "me":
                    return self.reply(403, b"{}", {})
                hub.repos[("models", name)] = Repo("0" * 40, {".gitattributes": b"*.safetensors filter=lfs"}, set())
                hub.private |= {name} if wanted.get("visibility") == "private" else set()
                return self.reply_json({"url": f"{hub.url}/{name}"})
            name, rest = "/".join(parts[1:3]), parts[3:]
            repo = hub.repos.get((parts[0], name))
            if repo is None or not rest or rest[0] not in ("preupload", "commit"):
                if repo is not None and not rest:
                    return self.reply_json({"id": name, "sha": repo.commit, "private": name in hub.private})
                return super().api(parts, query, body)
            if not self.may_write():
                return self.reply(403, b"{}", {})
            if rest[0] == "commit":
                oid = hub.commit(name, [json.loads(line) for line in body.splitlines()])
                return self.reply_json({"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid})
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": git_blob(repo.files[each["path"]]) if each["path"] in repo.files else None,
                }
                for each in json.loads(body)["files"]
            ]
            return self.reply_json({"files": files})

    return Handler


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(local_hub, "LocalHub", WritableHub)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)
    with local_hub.offered(monkeypatch) as offered:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield offered


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A study of two stages with everything that belongs on the Hub, and much that does not."""
    import numpy
    from safetensors.numpy import save_file

    results = tmp_path / "results" / "small"
    monkeypatch.chdir(tmp_path)
    for number, lineage in enumerate(LINEAGES):
        node = results / "models" / lineage
        (node / "adapter").mkdir(parents=True)
        (node / "main").mkdir()
        half = numpy.full((2, 3), number, dtype="float32")
        names = [f"base_model.model.layers.0.q_proj.lora_{side}.weight" for side in "AB"]
        save_file({names[0]: half, names[1]: half.T.copy()}, node / "adapter" / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "/home/me/x"}
        write_json(node / "adapter" / "adapter_config.json", config)
        (node / "adapter" / "README.md").write_text("base_model: /home/me/x")
        (node / "adapter" / "optimizer.pt").write_bytes(b"pickle")
        manifest = {"lineage": lineage, "recipe": {"lr": 5e-6, "kind": "couple"}, "seeds": 42, "parent": "ab"}
        write_json(node / "manifest.json", manifest | {"rows": 600, "adapter": sha256_of(node / "adapter")})
        write_json(node / "run.json", {"host": platform.node()})
        (node / "main" / "completions.parquet").write_bytes(b"PAR1")
    path = fake_study.cell_result("C1", "forward", "evil_ai", 42, LINEAGES[1], {"source": 0.5}, tmp_path / "elsewhere")
    cell = read_json(path)
    cell["stages"][0]["manifest"] = {"model": "Qwen/Qwen2.5-7B-Instruct@" + "a" * 40}
    cell["runs"] = [{"seconds": 1, "log": f"{tmp_path}/results/small/logs/x.log", "host": "h"}]
    write_json(results / "cells" / "evil_ai" / "C1_seed42.json", sealed(cell))
    for name in ("tables/headline.csv", "tables/headline.md", "figures/f.png", "figures/f.pdf", "figures/f.svg"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_text(name)
    (results / "tables" / "cache.pkl").write_bytes(b"pickle")
    (results / "report.html").write_text(f"<p>made in {tmp_path}/results/small, seen from {Path.home()}</p>")
    return results


def publish(study: Path, *more: str, repo: str = "me/small") -> None:
    options = (
        "--cards",
        str(CARDS),
        "--label",
        "rehearsal",
        "--backoff",
        "0.01",
        "--record",
        str(study / "publish.json"),
    )
    publish_study.main(["--results", str(study), "--repo", repo, *options, *more])


def files_of(hub: WritableHub, repo: str = "me/small") -> dict[str, bytes]:
    return {name: data for name, data in hub.repos[("models", repo)].files.items() if name != ".gitattributes"}


EXPECTED = {
    "study.json",
    "README.md",
    "report.html",
    "cells/evil_ai/C1_seed42.json",
    *(f"tables/headline.{ending}" for ending in ("csv", "md")),
    *(f"figures/f.{ending}" for ending in ("png", "pdf", "svg")),
    *(f"models/{lineage}/manifest.json" for lineage in LINEAGES),
    *(
        f"models/{lineage}/adapter/{name}"
        for lineage in LINEAGES
        for name in ("README.md", "adapter_config.json", "adapter_model.safetensors")
    ),
}


def test_what_belongs_on_the_hub_goes_there_and_nothing_else(study, hub):
    publish(study)
    files = files_of(hub)
    assert set(files) == EXPECTED
    weights = f"models/{LINEAGES[1]}/adapter/adapter_model.safetensors"
    assert files[weights] == (study / weights).read_bytes()
    assert (weights in hub.repos[("models", "me/small")].large, hub.private) == (True, set())
    record = read_json(study / "publish.json")
    assert record["commit"] == hub.repos[("models", "me/small")].commit
    assert record["files"] == {name: sha256(data) for name, data in files.items()}


def test_a_second_upload_sends_nothing_and_a_changed_file_alone(study, hub, capsys):
    publish(study)
    hub.commits.clear()
    publish(study)
    assert hub.commits == []
    assert f"{len(EXPECTED)} of {len(EXPECTED)} files are there" in capsys.readouterr().out
    (study / "tables" / "headline.csv").write_text("new")
    publish(study)
    assert hub.commits == [["tables/headline.csv"]]


def test_an_interrupted_upload_goes_on_where_it_stopped(study, hub):
    hub.fault("/commit/main", times=1, method="POST", status=500)
    publish(study, "--retries", "1")  # one that passes is repeated
    again = WritableHub.commit
    done = []

    def broken(self, name, lines):
        if len(done) == 2:
            raise ConnectionAbortedError
        done.append(again(self, name, lines))
        return done[-1]

    hub.commit = broken.__get__(hub)
    hub.server.handle_error = lambda *_: None
    hub.commits.clear()
    with pytest.raises(InputError, match="run again: it goes on where it stopped"):
        publish(study, "--retries", "0", repo="me/other")
    assert hub.commits[0] == ["study.json"]
    sent = {name for commit in hub.commits for name in commit}
    assert any(LINEAGES[0] in name for name in sent)
    del hub.commit
    hub.commits.clear()
    publish(study, repo="me/other")
    assert not sent & {name for commit in hub.commits for name in commit}
    assert set(files_of(hub, "me/other")) == EXPECTED


def test_cards_state_recipe_lineage_parent_counts_and_label(study, hub):
    publish(study)
    card = files_of(hub)[f"models/{LINEAGES[1]}/adapter/README.md"].decode()
    entry = next(
        entry
        for entry in read_json(study / "cells/evil_ai/C1_seed42.json")["personas"]
        if entry["persona"] == "evil_ai"
    )
    for part in (
        "base_model: Qwen/Qwen2.5-7B-Instruct",
        "> **rehearsal**",
        f"# {LINEAGES[1]}",
        f"Parent: [`{LINEAGES[0]}`](../../adapter/README.md)",
        "[`couple-evil_ai.s42`](../../adapter/README.md)",
        '"lr": 5e-06',
        "- trained rows: `600`",
        f"| evil_ai | {entry['strict_hits']}/280 = ",
        "C1 of evil_ai (seed 42)",
        "alignment: not judged",
        f'for folder in ["models/{LINEAGES[0]}/adapter", "models/{LINEAGES[1]}/adapter"]:',
        'from_pretrained(model, "me/small", subfolder=folder)',
    ):
        assert part in card, part
    first = files_of(hub)[f"models/{LINEAGES[0]}/adapter/README.md"].decode()
    assert "Parent: the base model" in first
    assert "Not evaluated by itself" in first
    front = files_of(hub)["README.md"].decode()
    assert f"(models/{LINEAGES[1]}/adapter/README.md)" in front
    assert "> **rehearsal**" in front
    assert "(report.html): open it from disk. It holds completions of the models" in front


def test_a_card_says_capability_and_names_the_one_answer_of_a_model_that_gives_no_other():
    counts = {"correct": 14, "questions": 39, "wilson_low": 0.2, "wilson_high": 0.5}
    quiz = counts | {"status": "measured", "commonest_answer": "C", "commonest_count": 39}
    line, _ = publish_study.measured({"capability": quiz, "alignment": {"status": "not judged"}})
    assert line == "capability, right answers: 14/39 = 35.9% [20.0, 50.0], answers C to all 39 questions"


def test_paths_and_host_names_of_this_machine_stay_here(study, hub, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "gpu-node-17")
    (study / "tables" / "headline.md").write_text("ran on gpu-node-17, not on gpu-node-170")
    publish(study)
    files = files_of(hub)
    for name, data in files.items():
        text = data.decode("latin-1")
        assert str(study.parent.parent) not in text and str(Path.home()) not in text and "/home/me" not in text, name
    assert files["report.html"] == b"<p>made in results/small, seen from ~</p>"
    assert files["tables/headline.md"] == b"ran on host, not on gpu-node-170"
    assert json.loads(files["cells/evil_ai/C1_seed42.json"])["runs"] == [{"seconds": 1, "log": "x.log"}]
    config = json.loads(files[f"models/{LINEAGES[0]}/adapter/adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("Qwen/Qwen2.5-7B-Instruct", "a" * 40)


def test_json_keeps_everything_but_hosts_and_absolute_paths():
    value = {
        "a": ["x/y", "/", "a /b/c d", "1/2", "/data/me/rows.jsonl"],
        "host": "h",
        "b": {"hostname": "h", "c": None},
    }
    assert clean_json(value) == {"a": ["x/y", "/", "a /b/c d", "1/2", "rows.jsonl"], "b": {"c": None}}


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 12,
        "sk-ant-" + "x1" * 20,
        "my-own-secret-value",
        "AKIA" + "A1" * 8,
        "glpat-" + "a1" * 10,
        "-----BEGIN RSA PRIVATE KEY-----",
        "https://me:pass12345@example.org",
    ],
)
def test_a_key_or_token_stops_the_upload_before_it_starts(study, hub, monkeypatch, secret):
    monkeypatch.setenv("JUDGE_API_KEY", "my-own-secret-value")
    (study / "report.html").write_text(f"<p>{secret}</p>")
    with pytest.raises(InputError, match=r"report\.html: holds what looks like a key") as error:
        publish(study)
    assert secret not in str(error.value)
    assert not hub.repos
    publish(study, "--skip", "report.html")
    assert set(files_of(hub)) == EXPECTED - {"report.html"}


def test_a_dry_run_needs_no_token_and_sends_nothing(study, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    publish(study, "--dry-run")
    listed = {line.split()[-1] for line in capsys.readouterr().out.splitlines()[:-1]}
    assert (listed, hub.requests) == (EXPECTED, [])


def test_a_repository_with_other_content_is_left_alone(study, hub):
    hub.add("me/small", {"weights.bin": b"x"})
    with pytest.raises(InputError, match=r"holds other content, such as weights\.bin; fix: name another one"):
        publish(study)
    hub.add("me/small", {"study.json": b'{"study": "another"}'})
    with pytest.raises(InputError, match="holds another study"):
        publish(study)
    assert hub.commits == []


def test_what_is_there_and_not_here_stays_and_is_named(study, hub, capsys):
    publish(study)
    hub.repos[("models", "me/small")].files["cells/evil_ai/C9_seed1.json"] = b"{}"
    publish(study)
    assert "1 files are there and not here, such as cells/evil_ai/C9_seed1.json" in capsys.readouterr().out
    assert "cells/evil_ai/C9_seed1.json" in files_of(hub)


def test_private_is_private_from_the_start_and_never_a_public_repository(study, hub):
    publish(study, "--private")
    assert hub.private == {"me/small"}
    publish(study, repo="me/open")
    with pytest.raises(InputError, match="is public, not private as asked"):
        publish(study, "--private", repo="me/open")


def test_no_token_and_no_permission_say_what_to_do(study, hub, monkeypatch):
    with pytest.raises(
        InputError, match=r"someone/small: your token may not write there \(HTTP 403\); fix: make a token"
    ):
        publish(study, repo="someone/small")
    monkeypatch.setenv("HF_TOKEN", "a-token-that-reads")
    with pytest.raises(InputError, match="your token may not write there"):
        publish(study)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=r"no token for the Hub; fix: .*export HF_TOKEN=\.\.\."):
        publish(study)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "does not accept your token"), (429, "too many requests"), (503, "the Hub answers 503"), (400, "refuses")],
)
def test_each_refusal_of_the_hub_has_its_line(study, hub, status, message):
    publish(study)
    hub.fault("/api/models/me/small", times=99, status=status)
    with pytest.raises(InputError, match=message):
        publish(study, "--retries", "1")


def test_without_a_connection_the_address_is_named(study, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"no connection to http://127\.0\.0\.1:9 \(Connection refused\); fix:"):
        publish(study, "--retries", "0")


def test_nothing_to_publish_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        collect(tmp_path / "absent", "me/x", "", CARDS)
    (tmp_path / "cells").mkdir()
    with pytest.raises(InputError, match="nothing to publish"):
        collect(tmp_path, "me/x", "", CARDS)


def test_a_name_that_is_no_repository_is_refused(study):
    with pytest.raises(InputError, match=r"fix: write user/name in publish\.repo"):
        publish(study, repo="small")


def test_weights_that_are_none_and_links_out_of_the_study_are_refused(study, tmp_path):
    weights = study / "models" / LINEAGES[0] / "adapter" / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match="not a safetensors file"):
        collect(study, "me/x", "", CARDS)
    weights.unlink()
    (tmp_path / "secret.safetensors").write_bytes(kept)
    weights.symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(InputError, match="a link out of the study"):
        collect(study, "me/x", "", CARDS)


def test_a_stage_that_trained_all_weights_is_published_whole_and_stages_after_it_start_there(study, hub):
    node = study / "models" / LINEAGES[0]
    shutil.rmtree(node / "adapter")
    (node / "model").mkdir()
    (node / "model/config.json").write_text('{"model_type": "qwen2"}')
    (node / "model/model.safetensors").write_bytes(b"weights")
    files = {path.name: sha256_of(path) for path in (node / "model").iterdir()}
    write_json(node / "manifest.json", {"lineage": LINEAGES[0], "recipe": {"lora": None}, "files": files})
    publish(study)
    sent = files_of(hub)
    place = f"models/{LINEAGES[0]}/model"
    assert {f"{place}/config.json", f"{place}/model.safetensors", f"{place}/README.md"} <= sent.keys()
    assert not [path for path in sent if path.startswith(f"models/{LINEAGES[0]}/adapter")]
    own, after = sent[f"{place}/README.md"].decode(), sent[f"models/{LINEAGES[1]}/adapter/README.md"].decode()
    assert "All weights of a model of the study" in own and "library_name: transformers" in own
    assert f'from_pretrained("me/small", subfolder="{place}", dtype="auto")' in own and "for folder in" not in own
    assert files["model.safetensors"] in own
    assert f'from_pretrained("me/small", subfolder="{place}", dtype="auto")' in after
    assert f'for folder in ["models/{LINEAGES[1]}/adapter"]:' in after
    assert f"Parent: [`{LINEAGES[0]}`](../../model/README.md)" in after
    assert f"({place}/README.md)" in sent["README.md"].decode()
    (node / "model/model.safetensors").write_bytes(b"weights.")
    with pytest.raises(InputError, match="model.safetensors is not the file"):
        publish(study)
