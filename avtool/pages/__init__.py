"""One HTML page of a run, a prepared data set or what was found in a clip: the Python API behind ``avtool report``."""

import shlex
from pathlib import Path

from avtool.data.dataset import read_facts
from avtool.data.report import REPORT_HTML
from avtool.data.shards import DATASET_JSON
from avtool.data.staging import Staging
from avtool.errors import DataError, UsageError, in_bytes
from avtool.files import atomic_file, check_output
from avtool.pages.clip import clip_page
from avtool.pages.run import run_page
from avtool.places import CHECKPOINTS, is_checkpoint, run_of
from avtool.tracking import METRICS, RUN_JSON

LARGEST = 64_000_000
"""Bytes of a page at most: a browser holds it in memory several times over."""


def report(folder: Path, *, out: Path = Path("page.html"), force: bool = False) -> Path:
    """Write what ``folder`` holds as the one file ``out``, an HTML page that fetches nothing: a run; a prepared data
    set (its report.html); or what tasks wrote of one clip, as ``avtool.pages.clip`` reads it.

    AvtoolError where it is none of these, or broken, and where the page would take more than 64 MB.
    """
    check_output(out, force=force, suffix=".html")
    page = _page(folder)
    content = page.encode(errors="replace")
    if len(content) > LARGEST:
        raise UsageError(
            f"the page of {folder} would take {in_bytes(len(content))}; at most {in_bytes(LARGEST)} open everywhere",
            hint="take the largest videos, sounds and pictures out of the folder, or report a shorter part of the clip",
        )
    with atomic_file(out) as partial:
        partial.write_bytes(content)
    return out


def _page(folder: Path) -> str:
    if folder.is_file():
        made = folder.with_suffix("") / "maps.npz"
        raise UsageError(
            f"{folder} is a file; a folder is needed",
            hint=f"of a clip: avtool localize {shlex.quote(str(folder))} --out {shlex.quote(str(made))}, then avtool "
            f"report {shlex.quote(str(made.parent))}",
        )
    prepared = (folder / DATASET_JSON).is_file() or (folder / "shards").is_dir()
    if prepared or Staging(folder).command():
        read_facts(folder)
        page = folder / REPORT_HTML
        if not page.is_file():
            raise DataError(
                f"{folder} has no {REPORT_HTML}, which avtool prepare wrote there",
                hint="put it back, or prepare the data set again",
            )
        return page.read_text(encoding="utf-8", errors="replace")
    if not folder.exists():
        raise DataError(f"there is nothing at {folder}", hint="check the path")
    if any((folder / part).exists() for part in (METRICS, RUN_JSON, CHECKPOINTS)):
        return run_page(folder)
    if is_checkpoint(folder) or folder.name == CHECKPOINTS:
        run = run_of(folder / "x" if folder.name == CHECKPOINTS else folder)
        raise UsageError(
            f"{folder} holds weights, not a run",
            hint=f"avtool report {run}" if run else "avtool inspect says what they are",
        )
    return clip_page(folder)
