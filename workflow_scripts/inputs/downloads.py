"""Files from the Hub or a plain URL: pinned, verified before use, resumable, retried, and one clear error each.

Files of the Hub land in the Hub client's own cache (HF_HOME, or `cache`): a rerun of a fetch, another checkout and
another program then find them there, and an interrupted fetch goes on with the files that are missing.
"""

import argparse
import contextlib
import functools
import hashlib
import os
import re
import socket
import sys
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from run.files import sha256_of
from run.program import InputError
from run.readers import read_yaml
from run.space import free_space, is_full

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

T = TypeVar("T")
COMMIT = re.compile(r"[0-9a-f]{40}")
NAME_PATIENCE = (
    30.0  # [s] for a name to resolve: a name server that starts may take some, a machine without one for ever
)
LONGEST_PAUSE = 300.0  # [s] that a server may ask for, as the Hub's rate limits do


@dataclass(frozen=True)
class HubFile:
    """One file of a commit. sha256: of its content, from a pin or (large files) from the Hub's listing.

    blob: the git blob id of a small file. One of the two is always known, so every file can be verified.
    """

    name: str
    bytes: int | None
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True)
class Hub:
    """A repository (repo_type: model | dataset), and how patiently it is asked. backoff: [s], doubled at each retry."""

    repo: str
    repo_type: str = "model"
    cache: str | None = None
    retries: int = 5
    backoff: float = 2.0

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every fetcher has."""
    parser.add_argument("--cache", help="folder of the Hub client's cache (default: its own, below HF_HOME)")
    parser.add_argument("--retries", type=int, default=5, help="how often a failed request is repeated (5)")
    parser.add_argument("--backoff", type=float, default=2.0, help="[s] before the first repeat, then doubled (2)")


def commit_of(hub: Hub, revision: str) -> str:
    """The commit that a branch, tag or commit stands for. A full commit is taken as it is, without a request."""
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    # Without expand the answer lists every file of the repository, which may be hundreds of thousands.
    ask: Any = api.dataset_info if hub.repo_type == "dataset" else api.model_info
    with explained(hub, revision):
        return str(retrying(lambda: ask(hub.repo, revision=revision, expand=["sha"]), hub.retries, hub.backoff).sha)


def list_files(hub: Hub, commit: str, folder: str = "") -> list[HubFile]:
    """The files of one folder of a commit (not of its subfolders), by name."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=endpoint())

    def ask() -> list[Any]:
        return list(api.list_repo_tree(hub.repo, folder or None, revision=commit, repo_type=hub.repo_type))

    with explained(hub, commit, folder):
        entries = retrying(ask, hub.retries, hub.backoff)
    files = [
        HubFile(entry.path, entry.size, entry.lfs.sha256)
        if entry.lfs
        else HubFile(entry.path, entry.size, None, entry.blob_id)
        for entry in entries
        if isinstance(entry, RepoFile)
    ]
    return sorted(files, key=lambda file: file.name)


def pins_of(sources: str, repo: str | None, revision: str | None) -> dict[str, Any]:
    """file -> {"sha256": .., "bytes": ..} of the commit, if the sources know it, else nothing. With these, a local copy
    of the pinned model is recorded as what it is.
    """
    pins = read_yaml(sources)["base"].get(repo, {})
    return pins["files"] if pins and pins["revision"] == revision else {}


def pinned_files(pins: Mapping[str, Mapping[str, Any]]) -> list[HubFile]:
    """Pins as they stand in sources.yaml, {name: {sha256, bytes}}, by name. Raises InputError for a bad one."""
    for name, pin in pins.items():
        if not re.fullmatch(r"[0-9a-f]{64}", str(pin.get("sha256"))):
            raise InputError(f"pin of {name}: sha256 is not 64 hex digits; fix: correct it in resources/sources.yaml")
    return [HubFile(name, pin.get("bytes"), pin["sha256"]) for name, pin in sorted(pins.items())]


def fetch(hub: Hub, commit: str, files: Sequence[HubFile]) -> dict[str, Path]:
    """Bring the files into the cache and verify each; {name: path in the cache}.

    Raises InputError (with the fix) if one cannot be had, or is not what its pin or the Hub's listing says.
    """
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    check_space(sum(file.bytes or 0 for file in files if not is_cached(hub, commit, file)), cache_of(hub))
    # One after the other: the client is parallel inside a file, and a kill then costs one file, not all of them.
    return {file.name: fetch_one(hub, commit, file) for file in files}


def is_cached(hub: Hub, commit: str, file: HubFile) -> bool:
    """Whether the Hub client's cache holds the file, verified or not."""
    return cached(hub, commit, file.name).is_file()


def cached(hub: Hub, commit: str, name: str) -> Path:
    """Where the Hub client's cache holds the file, if it does."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub.repo, name, hub.cache, commit, hub.repo_type)
    return Path(found) if isinstance(found, str) else cache_of(hub) / "not there" / name


def cache_of(hub: Hub) -> Path:
    """The folder of the Hub client's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(hub.cache or HF_HUB_CACHE)


def check_offered(hub: Hub, commit: str, pinned: Sequence[HubFile] = (), folder: str = "") -> None:
    """Raise InputError unless the Hub has the files, as they are pinned, and gives them to this account.

    A gated repository lists its files to everybody, so one is asked for, too (HEAD). folder: where they lie; without
    pins any file in it.
    """
    from huggingface_hub import HfApi, hf_hub_url

    folders = sorted({str(Path(file.name).parent).removeprefix(".") for file in pinned}) or [folder]
    listed = {file.name: file for each in folders for file in list_files(hub, commit, each)}
    for file in pinned:
        with_hash = listed.get(file.name, HubFile(file.name, None)).sha256
        if file.name not in listed or (with_hash and file.sha256 and with_hash != file.sha256):
            raise InputError(
                f"{hub.repo}@{commit[:12]}: {file.name}: {'another file than' if with_hash else 'not there, but'} "
                f"pinned; fix: compare resources/sources.yaml with {hub.page}/tree/{commit}"
            )
    # what tells of a gated repository is not gated itself
    data = [name for name in listed if not name.startswith(".") and not name.endswith(".md")] or [*listed]
    name = pinned[0].name if pinned else next(iter(data), "README.md")
    api = HfApi(endpoint=endpoint())
    url = hf_hub_url(hub.repo, name, repo_type=hub.repo_type, revision=commit, endpoint=endpoint())
    with explained(hub, commit, name):
        retrying(lambda: api.get_hf_file_metadata(url=url), hub.retries, hub.backoff)


def account() -> str:
    """Whose token the Hub client uses; "" without one, or offline. Raises InputError if the Hub does not accept it."""
    from huggingface_hub import HfApi, constants, get_token

    if not get_token() or constants.HF_HUB_OFFLINE:
        return ""
    with explained(Hub("account of your token"), "main"):
        try:
            return str(retrying(lambda: HfApi(endpoint=endpoint()).whoami(), 0, 0)["name"])
        except Exception as error:
            if any(status_of(each) == 401 for each in causes(error)):
                raise InputError(
                    "the Hub does not accept your token; fix: make a new one at https://huggingface.co/settings/tokens "
                    "and export HF_TOKEN=... (or run: hf auth login)"
                ) from None
            raise


def fetch_one(hub: Hub, commit: str, file: HubFile) -> Path:
    """One file, verified. A wrong copy is fetched once more, unless the Hub itself now holds another file."""
    from huggingface_hub import hf_hub_download

    def download(again: bool) -> Path:
        with explained(hub, commit, file.name):
            return Path(
                retrying(
                    lambda: hf_hub_download(
                        hub.repo,
                        file.name,
                        revision=commit,
                        repo_type=hub.repo_type,
                        cache_dir=hub.cache,
                        endpoint=endpoint(),
                        force_download=again,
                    ),
                    hub.retries,
                    hub.backoff,
                )
            )

    path = download(again=False)
    if found := mismatch(path, file):
        # The cache names a blob after its ETag, which for a large file is the sha256 that the Hub promises.
        promised = Path(os.readlink(path)).name if path.is_symlink() else ""
        if promised != found:
            path = download(again=True)
            found = mismatch(path, file)
        if found:
            # Both the link and the blob: the client would make a new link to a blob it still has.
            for each in (path.resolve(), path):
                each.unlink(missing_ok=True)
            raise InputError(
                f"{hub.repo}@{commit[:12]}: {file.name}: checksum off (expected {file.sha256 or file.blob}, got "
                f"{found}); fix: run again; if it stays, the file on the Hub or its pin in resources/sources.yaml "
                f"changed: compare with {hub.page}"
            )
    print(f"{hub.repo}@{commit[:12]}: {file.name} verified", file=sys.stderr, flush=True)
    return path


def mismatch(path: Path, file: HubFile) -> str:
    """The hash that the file has instead of its expected one, or "" if it is right."""
    if file.sha256:
        found = sha256_of(path)
        return "" if found == file.sha256 else found
    data = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return "" if found == file.blob else found


def fetch_url(url: str, sha256: str, retries: int, backoff: float) -> bytes:
    """The bytes behind a URL (http, https or file), verified. For small files: it is held in memory."""
    import http.client
    import urllib.error
    import urllib.request

    def ask() -> bytes:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bytes(answer.read())

    try:
        data = retrying(ask, retries, backoff)
    except urllib.error.HTTPError as error:
        fix = {
            404: "the file or its commit is gone: use panel.from: builtin, or panel.from: path with your own",
            403: "the server refuses: check the network's proxy",
            429: "too many requests: wait an hour",
        }.get(error.code, "the server is in trouble: run again later")
        raise InputError(f"{url}: answers {error.code} {error.reason}; fix: {fix}") from None
    except (OSError, http.client.HTTPException) as error:
        server = "://".join(urllib.parse.urlsplit(url)[:2])
        lost = unreachable(list(causes(error)), server) or f"cannot be reached ({error}); fix: check network and proxy"
        raise InputError(f"{url}: {lost}, then run again") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(
            f"{url}: checksum off (expected {sha256}, got {found}); fix: run again; if it stays, something between "
            "here and the server changes the file, or the pin in resources/sources.yaml is wrong"
        )
    return data


def fetch_pinned(
    pins: Mapping[str, Any], names: Iterable[str], url: str | None, retries: int, backoff: float
) -> dict[str, tuple[str, bytes]]:
    """{name: (path, bytes)} of small files pinned by commit, path and sha256. url: where they lie, if not as pinned."""
    root = (url or pins["url"]).rstrip("/")
    return {
        name: (
            pins[name]["path"],
            fetch_url(f"{root}/{pins[name]['commit']}/{pins[name]['path']}", pins[name]["sha256"], retries, backoff),
        )
        for name in names
    }


def retrying(call: Callable[[], T], retries: int, backoff: float) -> T:
    """call(), again after a pause while it fails in a way that may pass (5xx, 429, a broken connection).

    The one policy for all that goes over the network, which the Hub's client, too, then leaves to it.
    """
    import tenacity

    ask_once()

    def announce(state: tenacity.RetryCallState) -> None:
        error = error_of(state)
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        print(f"attempt {state.attempt_number} of {retries + 1} failed ({reason})", file=sys.stderr, flush=True)

    policy = tenacity.Retrying(
        stop=lambda state: state.attempt_number > retries or name_is_hopeless(state),
        wait=lambda state: asked_pause(error_of(state)) or backoff * 2 ** (state.attempt_number - 1),
        retry=tenacity.retry_if_exception(may_pass),
        before_sleep=announce,
        reraise=True,
    )
    return policy(call)


@functools.cache
def ask_once() -> None:
    """Let the Hub's client leave to `retrying` what it would repeat by itself, six times in each of our attempts."""
    from huggingface_hub import set_client_factory

    set_client_factory(client_that_asks_once)


def client_that_asks_once() -> "httpx.Client":
    """The Hub client's own HTTP client, but that what it would repeat has a type that it does not know."""
    import httpx
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    send = client.send

    def once(request: httpx.Request, **kwargs: Any) -> httpx.Response:
        try:
            answer = send(request, **kwargs)
        except (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError) as error:
            raise httpx.TransportError(str(error) or type(error).__name__) from error
        if answer.status_code == 429 or answer.status_code >= 500:
            answer.close()
            answer.raise_for_status()
        return answer

    client.send = once  # type: ignore[method-assign]
    return client


def error_of(state: "RetryCallState") -> BaseException:
    """What the last attempt raised."""
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def asked_pause(error: BaseException) -> float:
    """Seconds that a server asks to be left alone (Retry-After), at most LONGEST_PAUSE; 0 if it does not say."""
    for each in causes(error):
        asked = getattr(getattr(each, "response", None), "headers", {}).get("retry-after", "")
        if asked.isdecimal():
            return min(float(asked), LONGEST_PAUSE)
    return 0.0


def name_is_hopeless(state: "RetryCallState") -> bool:
    """Whether a name does not resolve, and would not be asked for again within NAME_PATIENCE of the first time."""
    spent = max(state.seconds_since_start or 0.0, state.idle_for)
    attempt = (spent - state.idle_for) / state.attempt_number
    return is_unresolved(causes(error_of(state))) and spent + state.upcoming_sleep + attempt > NAME_PATIENCE


def is_unresolved(chain: Iterable[BaseException]) -> bool:
    """Whether a request failed because no address is known for the server's name."""
    return any(isinstance(error, socket.gaierror) for error in chain)


def may_pass(error: BaseException) -> bool:
    """Whether a request is worth repeating."""
    import http.client
    import urllib.error

    import httpx

    chain = list(causes(error))
    if any(map(is_full, chain)):
        return False
    for each in chain:
        status = status_of(each)
        if status is not None:
            return status >= 500 or status in (408, 425, 429)
        if isinstance(each, (httpx.TransportError, http.client.HTTPException, ConnectionError, TimeoutError)):
            return not type(each).__name__.startswith("Offline")
        if type(each).__name__.startswith("Xet") or "Consistency check failed" in str(each):
            return True
    return isinstance(error, urllib.error.URLError)


@contextlib.contextmanager
def explained(hub: Hub, revision: str, name: str = "") -> Iterator[None]:
    """Turn whatever the Hub client raises inside the block into one InputError that names the fix."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        message = explanation(hub, revision, name, list(causes(error)))
        if message is None:
            raise
        raise InputError(message) from None


def explanation(hub: Hub, revision: str, name: str, chain: Sequence[BaseException]) -> str | None:
    """The line for a failed request, from the errors in its chain of causes; None if it is none of ours."""
    from huggingface_hub import errors, get_token

    subject = f"{hub.repo}@{revision[:12]}" + (f": {name}" if name else "")
    instead = "or use a local copy (from: path in config.yaml)"
    if any(map(is_full, chain)):
        return f"{subject}: no space left on the disk of the cache; fix: free some, or set HF_HOME to a larger disk"
    for error in chain:
        status = status_of(error)
        if isinstance(error, errors.OfflineModeIsEnabled):
            return f"{subject}: HF_HUB_OFFLINE is set and the file is not in the cache; fix: unset it, {instead}"
        if isinstance(error, errors.GatedRepoError):
            if get_token():
                return (
                    f"{subject}: gated, and your account has no access; fix: open {hub.page} with the account of "
                    f"your token, accept the conditions (a fine-grained token also needs 'read gated repos'), {instead}"
                )
            return (
                f"{subject}: gated, and no token is set; fix: accept the conditions at {hub.page}, make a token at "
                f"https://huggingface.co/settings/tokens, export HF_TOKEN=... (or run: hf auth login), {instead}"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{subject}: this revision is gone; fix: pick one from {hub.page}/commits/main, {instead}"
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            return f"{subject}: not in this revision; fix: see {hub.page}/tree/{revision}, {instead}"
        if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404):
            if status == 401 and get_token():
                return f"{subject}: the Hub does not accept your token; fix: make a new one and export HF_TOKEN=..."
            return (
                f"{subject}: no such repository, or a private one (HTTP {status}); fix: check its name, "
                f"export HF_TOKEN=... if it is private, {instead}"
            )
        if status == 429:
            return f"{subject}: too many requests; fix: wait some minutes, or export HF_TOKEN=... for a higher limit"
        if status is not None:
            return (
                f"{subject}: the Hub answers {status}; fix: run again later (https://status.huggingface.co), {instead}"
            )
    if lost := unreachable(chain, endpoint() or "https://huggingface.co"):
        return f"{subject}: {lost}, then run again: it goes on where it stopped; {instead}"
    last = chain[0]
    if isinstance(last, OSError):
        return f"{subject}: {' '.join(str(last).split())[:200]}; fix: run again"
    return None


def unreachable(chain: Sequence[BaseException], address: str) -> str:
    """Why no server answered at an address, and the fix; "" if that is not what went wrong."""
    import httpx

    if is_unresolved(chain):
        name = urllib.parse.urlsplit(address).hostname
        return f"the name {name} does not resolve; fix: check the network, its name server (DNS) and proxy"
    if any(isinstance(error, (httpx.TransportError, ConnectionError, TimeoutError)) for error in chain):
        system = [str(error.strerror) for error in chain if isinstance(error, OSError) and error.strerror]
        return f"no connection to {address} ({[*system, type(chain[-1]).__name__][0]}); fix: check network and proxy"
    return ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, what caused that, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error stands for, if it is one."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and not isinstance(status, bool) else None


def check_space(needed: int, folder: Path) -> None:
    """Raise InputError if `folder`'s disk has less than `needed` bytes free."""
    free = free_space(folder)
    if needed > free:
        raise InputError(
            f"{folder}: {needed / 1e9:.1f} GB to fetch, {free / 1e9:.1f} GB free; fix: free some space, "
            "or set HF_HOME to a larger disk"
        )


def endpoint() -> str | None:
    """HF_ENDPOINT as it is now (the client reads it once, at its import)."""
    return os.environ.get("HF_ENDPOINT")


def folder_sha256(hashes: Mapping[str, str]) -> str:
    """What records.sha256_of gives for a folder of these {name: sha256}, without reading it again."""
    return hashlib.sha256("".join(f"{name}\t{hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()
