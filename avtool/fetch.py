"""Raw files of a data set: from its copy on the Hugging Face hub, or in words what to get from where.

``huggingface_hub`` names the files, the licence and the way in. The bytes come by ``avtool.download``, since it keeps
what came of a file that broke off, which ``huggingface_hub`` does not: archives of 17 GB are not begun again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from avtool import hub
from avtool.data.catalog import DataSet, Mirror, Request, read_source
from avtool.download import download, only_one, partial_path
from avtool.errors import CheckpointError, DataError, UsageError, free_bytes, in_bytes
from avtool.files import sha256_of
from avtool.places import source_folder
from avtool.progress import say
from avtool.registry import DATASETS


@dataclass(frozen=True)
class RemoteFile:
    """A file of a copy: its ``size`` in bytes, its ``sha256`` where the hub keeps one, and where it goes."""

    path: str
    size: int
    sha256: str | None
    target: Path

    @property
    def whole(self) -> bool:
        """Whether it is there in its full size."""
        return self.target.is_file() and self.target.stat().st_size == self.size

    @property
    def here(self) -> int:
        """How many of its bytes are there."""
        part = partial_path(self.target)
        return self.size if self.whole else part.stat().st_size if part.is_file() else 0


@dataclass(frozen=True)
class Copy:
    """A copy of data set ``name`` on a hub at one ``revision``: whose, under which ``licence`` (None: its card names
    none), and the files of it that are wanted."""

    name: str
    repo: str
    endpoint: str
    revision: str
    official: bool
    licence: str | None
    folder: Path
    files: list[RemoteFile]

    def as_dict(self) -> dict[str, Any]:
        """It as JSON values, sizes in bytes."""
        files = [
            {"path": file.path, "bytes": file.size, "here": file.here, "target": str(file.target)}
            for file in self.files
        ]
        sums = {"bytes": sum(file.size for file in self.files), "here": sum(file.here for file in self.files)}
        whole = asdict(self) | {"folder": str(self.folder), "files": files}
        return whole | sums | {"free": free_bytes(self.folder)}


def fetch(
    name: str,
    out: Path | None = None,
    *,
    only: Sequence[str] = (),
    revision: str | None = None,
    dry_run: bool = False,
) -> Copy:
    """Bring the raw files of data set ``name`` from its copy on the hub into ``out`` and return what was brought.

    ``out``: by default where ``avtool prepare`` looks for them. ``only``: patterns, as in a shell, of the files to
    bring; all without one. ``revision``: of the copy, by default its newest. What is there in full is left as it is, a
    file that broke off goes on. ``dry_run`` brings nothing. $HF_ENDPOINT and a token kept by ``hf auth login`` count
    here as anywhere. DataError where there is no copy, with what to get from where; where it cannot be had; where the
    disk is too small.
    """
    dataset = DATASETS.find(name)
    if dataset.mirror is None:
        raise _by_hand(name, dataset, out or source_folder(name))
    copy = find_copy(name, dataset.mirror, out, only=only, revision=revision)
    _introduce(copy, dataset.copies)
    if not dry_run:
        _bring(copy)
    return copy


def find_copy(
    name: str,
    mirror: Mirror,
    out: Path | None = None,
    *,
    only: Sequence[str] = (),
    revision: str | None = None,
) -> Copy:
    """What the hub says of ``mirror`` today. DataError where it cannot be asked; UsageError where ``only`` matches
    nothing."""
    from huggingface_hub.hf_api import HfApi, RepoFile

    api = HfApi(endpoint=hub.endpoint(), library_name="avtool")
    folder = out or source_folder(mirror.folder)
    with hub.in_words(mirror.repo, revision, data=True):
        info = api.dataset_info(mirror.repo, revision=revision)
        if info.gated:
            api.auth_check(mirror.repo, repo_type="dataset")
        tree = [*api.list_repo_tree(mirror.repo, repo_type="dataset", revision=info.sha, recursive=True)]
    known = [
        RemoteFile(
            entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, folder / place / entry.path
        )
        for entry in tree
        if isinstance(entry, RepoFile)
        for place in [place for pattern, place in mirror.places.items() if fnmatch(entry.path, pattern)][:1]
    ]
    files = [file for file in known if not only or any(fnmatch(file.path, pattern) for pattern in only)]
    if not files:
        what = " or ".join(only or mirror.places)
        paths = [file.path for file in known] or [entry.path for entry in tree]
        raise UsageError(
            f"{mirror.repo} has no file {what}",
            hint=f"there are: {', '.join(paths[:30]) or 'no files at all'}",
        )
    if outside := [file.path for file in files if ".." in Path(file.path).parts]:
        raise DataError(
            f"{mirror.repo} at {api.endpoint} has a file that would lie outside {folder}: {outside[0]}",
            hint="trust nothing of this copy; get the files elsewhere",
        )
    licence = info.card_data.get("license") if info.card_data else None
    return Copy(
        name,
        mirror.repo,
        api.endpoint,
        str(info.sha),
        mirror.official,
        ", ".join(licence) if isinstance(licence, list) else licence,
        folder,
        files,
    )


def _by_hand(name: str, dataset: DataSet, folder: Path) -> DataError | UsageError:
    """Why ``name`` cannot be fetched, with what to get from where instead."""
    if not dataset.copies:
        return UsageError(f"{name} is not fetched from anywhere", hint=f"avtool prepare {name}")
    try:
        read_source(name, folder, Request())
    except DataError as error:
        return DataError(f"no copy of {name} to fetch: {dataset.copies}", hint=error.hint)
    return UsageError(f"{name} lies at {folder} already", hint=f"avtool prepare {name} {folder}")


def _introduce(copy: Copy, note: str) -> None:
    facts = copy.as_dict()
    whose = "its authors' own copy" if copy.official else "a third party's copy, not the authors' own"
    say(f"{copy.name}: {copy.repo} at {copy.endpoint}, {whose}, revision {copy.revision[:12]}")
    say(f"known of it: {note}")
    say(f"licence, as its card says: {copy.licence or 'none is named, so see where the data set comes from'}")
    say(
        f"{len(copy.files)} files, {in_bytes(facts['bytes'])} ({in_bytes(facts['here'])} are there already), into"
        f" {copy.folder} ({in_bytes(facts['free'])} are free)"
    )


def _bring(copy: Copy) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    missing = [file for file in copy.files if not file.whole]
    needed = sum(file.size - file.here for file in missing)
    if needed > (free := free_bytes(copy.folder)):
        raise DataError(
            f"{in_bytes(needed)} are to come, and {in_bytes(free)} are free at {copy.folder}",
            hint="free some space, choose another --out, or bring a part of it: --only PATTERN",
        )
    again = f"give the same command again, or get it from {copy.endpoint}/datasets/{copy.repo} by hand"
    try:
        with only_one(copy.folder / "fetch", what=copy.name):
            for number, file in enumerate(missing, 1):
                url = hf_hub_url(
                    copy.repo, file.path, repo_type="dataset", revision=copy.revision, endpoint=copy.endpoint
                )
                download(
                    url,
                    file.target,
                    size=file.size,
                    what=f"{file.path} ({number}/{len(missing)})",
                    by_hand=f"put the file at {file.target} by hand",
                    elsewhere=again,
                    headers=build_hf_headers(library_name="avtool"),
                )
                _check_sum(file, url)
    except KeyboardInterrupt:
        say("what came is kept: the same command goes on from there")
        raise
    except CheckpointError as error:  # as a download of weights calls it
        raise DataError(error.message, hint=error.hint) from error


def _check_sum(file: RemoteFile, url: str) -> None:
    if file.sha256 and (found := sha256_of(file.target)) != file.sha256:
        file.target.unlink()
        raise DataError(
            f"{url} came with the wrong sha256: {found}, not {file.sha256}",
            hint="give the same command again; it begins this file anew",
        )
