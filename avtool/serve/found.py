"""Files of a visitor in, all that a model finds in them out: the files that the commands write, and a page of them."""

import contextlib
import io
import mimetypes
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from avtool.clip import Clip
from avtool.commands import printed_json
from avtool.data.tree import KINDS, SOUND
from avtool.errors import AvtoolError, UsageError, explain, in_bytes
from avtool.html import data_url, render
from avtool.pages import report
from avtool.predict import Chosen
from avtool.registry import VIT, kinds
from avtool.tasks.classify.command import as_dict
from avtool.tasks.classify.predict import classify
from avtool.tasks.localize.predict import localize
from avtool.tasks.segment.predict import segment
from avtool.tasks.separate.predict import separate

OFFERED = 64_000_000
"""Bytes of files at most that a visitor's page holds: a browser has them in memory several times over."""
PAGE = "clip.html"
WARNING = "warning: "


@dataclass(frozen=True)
class Bounds:
    """What a visitor may bring: so many ``megabytes`` of 2**20 bytes in all, and a clip of so many ``seconds``."""

    megabytes: float = 100.0
    seconds: float = 60.0

    @property
    def bytes(self) -> int:
        return round(self.megabytes * 2**20)


class Step(NamedTuple):
    """A command as it is typed, and what writes the same into a folder."""

    typed: str
    write: Callable[[Path], object]


@dataclass(frozen=True)
class Found:
    """What was found in the clip ``name``: ``files`` by their names, which ``commands`` write; ``page`` of it (None:
    there is none); and ``notes``, sentences on what could not be done and what to beware of."""

    name: str
    files: Mapping[str, bytes]
    commands: Sequence[str]
    page: str | None
    notes: Sequence[str]

    def html(self) -> str:
        """All of it as HTML that fetches nothing: files are in the addresses of their links."""
        left, offered, large = OFFERED, [], []
        for name, content in self.files.items():
            if len(content) > left:
                large.append(f"{name} ({in_bytes(len(content))}) is too large for this page")
                continue
            left -= len(content)
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            offered.append((name, in_bytes(len(content)), data_url(content, kind)))
        pictures = [one for one in offered if one[0].endswith(".png")] if self.page is None else []
        notes = [*self.notes, *large]
        return render(
            "found",
            name=self.name,
            files=offered,
            commands=self.commands,
            page=self.page,
            pictures=pictures,
            notes=notes,
        )


def check_encoder(chosen: Chosen) -> None:
    """UsageError where a model is the encoder of one modality, and finds nothing in a clip."""
    if chosen.config.kind == VIT:
        raise UsageError(
            f"{chosen.checkpoint} is an encoder of pictures or of sounds alone",
            hint="name a model of both: avtool pull --list names published ones",
        )


def find(files: Sequence[Path], chosen: Chosen, bounds: Bounds, *, videos: bool = False) -> Found:
    """All that the model finds in the ``files`` of a visitor: a clip, or a picture or a clip with a sound. ``videos``:
    also as videos, which takes twice the time. On the disk nothing is left of it.

    AvtoolError where the files cannot be used, or are longer than ``bounds``; where only some of the commands refuse
    them, that is in the notes.
    """
    clip, audio = _roles(files)
    talk = io.StringIO()
    with tempfile.TemporaryDirectory(dir=clip.parent) as temporary, contextlib.redirect_stderr(talk):
        folder, page = Path(temporary) / "found", Path(temporary) / PAGE
        folder.mkdir()
        done, refused = list[str](), dict[str, AvtoolError]()
        try:
            for step in _steps(clip, audio, chosen, still=_check(clip, audio, bounds), videos=videos):
                if _tried(step, folder, refused):
                    done.append(step.typed)
            if not done:
                raise next(iter(refused.values()))
            if any(path.suffix in (".npz", ".json") for path in folder.rglob("*")):
                paged = Step(f"avtool report FOLDER --out {PAGE}", lambda found: report(found, out=page))
                if _tried(paged, folder, refused):
                    done.append(paged.typed)
        except AvtoolError as error:
            raise type(error)(_bare(error.message, clip, folder), hint=error.hint) from error
        written = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        told = [line for line in talk.getvalue().splitlines() if line.startswith(WARNING)]
        notes = [
            _bare(text, clip, folder)
            for text in (*(f"{name}: {error.message}" for name, error in refused.items()), *told)
        ]
        shown = page.read_bytes() if page.exists() else None
    if shown is not None:
        written[PAGE] = shown
    shown_text = None if shown is None else shown.decode()
    return Found(clip.name, written, done, shown_text, list(dict.fromkeys(notes)))


def _roles(files: Sequence[Path]) -> tuple[Path, Path | None]:
    """Which of a visitor's files is the clip, and which the sound that goes with it. UsageError for any others."""
    sounds = [path for path in files if KINDS.get(path.suffix[1:].lower()) == SOUND]
    if len(files) == 1:
        return files[0], None
    if len(files) == 2 and len(sounds) == 1:
        (clip,) = (path for path in files if path not in sounds)
        return clip, sounds[0]
    raise UsageError("one clip at a time: a video, or a picture or a video together with one sound")


def _check(clip: Path, audio: Path | None, bounds: Bounds) -> bool:
    """Whether ``clip`` is a picture. AvtoolError where it cannot be opened, or where it or its sound lasts too long by
    its header or by its time stamps: headers may say less."""
    with Clip(clip, audio, alone=True) as opened:
        seconds = max((max(file.duration(), file.measured()) for file in opened.timed), default=0.0)
        if seconds > bounds.seconds:
            raise UsageError(f"{clip} lasts {seconds:.0f} s: here a clip may last {bounds.seconds:g} s")
        return opened.still is not None


def _steps(clip: Path, audio: Path | None, chosen: Chosen, *, still: bool, videos: bool) -> Iterator[Step]:
    """What the model is run for, its own task first; every model of pictures and sounds has a heat map."""
    run: dict[str, Any] = {"audio": audio, "model": chosen}
    given = shlex.join([clip.name, *(["--audio", audio.name] if audio else [])])
    task = kinds()[chosen.config.kind].name
    videos &= not still

    def classes(to: Path) -> None:
        said = {"clips": [as_dict(one) for one in classify([clip], **run)], "failed": []}
        (to / "classes.json").write_text(f"{printed_json(said)}\n", encoding="utf-8")

    def step(task: str, write: Callable[..., object], flags: str = "", **names: str) -> Step:
        outputs = " ".join(f"--{option} {name}" for option, name in names.items())
        return Step(
            f"avtool {task} {given} {flags}{outputs}",
            lambda to: write(clip, **{option: to / name for option, name in names.items()}, **run),
        )

    if task == "classify":
        yield Step(f"avtool classify {given} --json > classes.json", classes)
    if task == "separate":
        yield step("separate", separate, out="sounds")
    if task == "segment" and still:
        yield step("segment", segment, out="mask.png", overlay="overlay.png")
    elif task == "segment":
        yield from (step("segment", segment, out=name) for name in ["masks.npz", *["masks.mp4"] * videos])
    for name in ["heatmap.png"] if still else ["maps.npz", *["heatmap.mp4"] * videos]:
        yield step("localize", partial(localize, controls=True), "--controls ", out=name)


def _tried(step: Step, folder: Path, refused: dict[str, AvtoolError]) -> bool:
    """Whether ``step`` has written what it finds into ``folder``; else why not is put down under the command's name. A
    defect of the program is raised."""
    try:
        step.write(folder)
    except Exception as error:
        if (known := explain(error)) is None:
            raise
        refused[step.typed.split()[1]] = known
        return False
    return True


def _bare(text: str, clip: Path, folder: Path) -> str:
    """A sentence without the folders in which the server keeps a visitor's files."""
    return text.replace(f"{folder}/", "").replace(f"{clip.parent}/", "")
