"""Models on the Hugging Face hub, by name; and what the hub's library raises, in words. No token is in any of them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from avtool.errors import AvtoolError, CheckpointError, DataError, UsageError, explain

CONFIG, WEIGHTS, CLASSES = "config.json", "model.safetensors", "classes.json"
"""The files of a model: a checkpoint folder's, without what a resume needs. Not every model has names of classes."""
_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?", re.ASCII)
LOG_IN = "hf auth login (or set HF_TOKEN)"


def endpoint() -> str:
    """$HF_ENDPOINT, else https://huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def parse_name(name: str) -> tuple[str, str | None]:
    """The repository and the revision (None: the newest) of ``owner/name`` or ``owner/name@revision``. UsageError for
    text of another form."""
    if (found := _NAME.fullmatch(name)) is None:
        raise UsageError(
            f"{name} is no name on the hub", hint="name a model owner/name, or owner/name@revision"
        )
    return found[1], found[2]


def is_hub_name(path: Path) -> bool:
    """Whether ``path``, where nothing is, names a model on the hub. Without a @revision it does only where its owner is
    no folder here: the hub is not asked for a mistyped path."""
    found = _NAME.fullmatch(str(path))
    return found is not None and (found[2] is not None or not path.parent.is_dir())


def fetch_model(
    name: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder of the model ``owner/name`` or ``owner/name@revision`` in the hub's own cache, fetched where it is not
    there in full; without a network, as it is there.

    ``revision``: a branch, tag or commit, in place of the name's. The other options are those of
    ``huggingface_hub.hf_hub_download``, which heeds $HF_HOME, $HF_HUB_OFFLINE and a token kept by ``hf auth login``.
    AvtoolError where it cannot be had, or where the repository holds no model of avtool's, of which config.json alone
    is fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, named = parse_name(name)
    fetch = partial(
        hf_hub_download,
        repo,
        endpoint=endpoint(),
        library_name="avtool",
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    why, file = f"its {CONFIG} is another program's", CONFIG
    with in_words(repo, revision or named):
        try:
            config = Path(fetch(file, revision=revision or named))
            if b'"kind"' in config.read_bytes():
                with suppress(EntryNotFoundError):
                    fetch(CLASSES, revision=config.parent.name)  # the commit
                file = WEIGHTS
                fetch(file, revision=config.parent.name)
                return config.parent
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            why = f"there is no {file}"
    raise CheckpointError(
        f"{endpoint()}/{repo} holds no model of avtool's: {why}",
        hint="name one that avtool push made; avtool convert reads weights of other programs",
    )


@contextmanager
def in_words(
    repo: str, revision: str | None = None, *, data: bool = False, writes: bool = False
) -> Iterator[None]:
    """What the hub's library raises becomes an AvtoolError with the way out: ``repo`` holds a ``data`` set, or a model,
    that is read or, where it ``writes``, written."""
    from huggingface_hub import errors as hub

    site, what = endpoint(), "data set" if data else "model"
    page = f"{site}/datasets/{repo}" if data else f"{site}/{repo}"
    failed: type[AvtoolError] = DataError if data else CheckpointError
    # the error of its HTTP library, which is another one from version to version
    base: Any = hub.HfHubHTTPError.__bases__[0]
    try:
        yield
    except hub.GatedRepoError as error:
        raise failed(
            f"{repo} is gated: its owner wants its terms accepted first",
            hint=f"accept them at {page}, then: {LOG_IN}, and the same command again",
        ) from error
    except hub.RevisionNotFoundError as error:
        way = "--revision" if data else f"@{revision}"
        raise UsageError(
            f"{repo} has no revision {revision}", hint=f"leave out {way}, or see {page}"
        ) from error
    except hub.RepositoryNotFoundError as error:
        check = "$HF_ENDPOINT" if data else "the name (of a folder: the path) and $HF_ENDPOINT"
        raise failed(
            f"there is no {what} {repo} at {site}, or it is private",
            hint=f"check {check}; for a private one: {LOG_IN}",
        ) from error
    except hub.HFValidationError as error:
        raise UsageError(f"{repo}: {error}", hint="correct the name: owner/name") from error
    except (base, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno and (known := explain(error)):  # of the disk
            raise known from error
        cached = isinstance(error, hub.LocalEntryNotFoundError)  # without a cause where no look-up was wanted
        cause: Any = error.__cause__ if cached else error
        if cause is None or isinstance(cause, hub.OfflineModeIsEnabled):
            lacks = ", and it is not in the cache, or not in full" if cached else ""
            hint = "unset HF_HUB_OFFLINE" + (
                ", or fetch it once before, with the same HF_HOME" if cached else ""
            )
            raise failed(f"offline, so {page} is not asked{lacks}", hint=hint) from error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        said = " ".join(str(cause).split())[:300] or type(cause).__name__
        hint = "check the network, the proxy and $HF_ENDPOINT (default https://huggingface.co), and try again"
        if status in (401, 403):
            hint = f"use a token that may {'write to' if writes else 'read'} it: {LOG_IN}"
        elif writes and "metadata" in said:
            hint = "correct it; licences are those of https://huggingface.co/docs/hub/repositories-licenses"
        raise failed(f"{page} cannot be {'written' if writes else 'asked'}: {said}", hint=hint) from error
