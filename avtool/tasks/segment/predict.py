"""Which pixels of a frame, or of a whole clip, sound: the Python API behind ``avtool segment``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from avtool.clip import Clip
from avtool.devices import resolve_device
from avtool.errors import UsageError
from avtool.files import check_output
from avtool.predict import Chosen, batched, choose_model
from avtool.progress import progress_bar
from avtool.report.heatmap import write_png
from avtool.report.overlay import lay_over, write_mask
from avtool.tasks.names import ClassNames
from avtool.tasks.segment.train import resized as resized_logits
from avtool.whole import VIDEO, WholeClip, check_moves

FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class SegmentationResult:
    """What ``segment`` found. ``shares``: of the pixels of all ``frames`` seen, how many each class has, by its name
    and largest first; a model of one class calls it ``sounding``. ``mask``: uint8 (H, W) of class numbers, 0 for the
    background, of the one frame that was looked at, at ``time`` seconds; None for a whole clip."""

    shares: dict[str, float]
    frames: int
    model: Path
    mask: np.ndarray | None = None
    time: float | None = None


def segment(
    clip: Path,
    *,
    out: Path = Path("mask.png"),
    overlay: Path | None = None,
    audio: Path | None = None,
    model: Path | Chosen | None = None,
    at: float | None = None,
    device: str = "auto",
    force: bool = False,
) -> SegmentationResult:
    """Mark what sounds in ``clip``, a video or a picture with the sound file ``audio``.

    ``out`` ending in .png: the mask of the frame ``at`` so many seconds (None: the middle), of the frame's own size;
    from a model of one class 255 where it sounds, from one of several the class numbers, with a palette. ``overlay``:
    also the frame under its mask, a PNG. ``out`` ending in .mp4: the whole clip under its masks, each of a frame and
    the sound around it, with the clip's own sound (or ``audio``'s) as one channel. A frame is seen whole, squeezed to
    the model's size, and a pixel is marked whose probability is above one half, or whose likeliest class is not the
    background. ``model``: a run, checkpoint or converted folder (None: see ``avtool.places.find_model``),
    or what ``choose_model`` gave.

    The clip is looked at before any weights are loaded. AvtoolError where the clip, the model or an output cannot be
    used.
    """
    _check_outputs(out, overlay, at, inputs=(clip, audio), force=force)
    target = resolve_device(device)
    whole_clip = out.suffix.lower() == VIDEO
    with Clip(clip, audio) as source:
        time = source.time(at)
        if whole_clip:
            check_moves(source, out)
        chosen = choose_model(model, device=target, task="segment")
        names = _names(chosen)
        if whole_clip:
            return _segment_clip(source, chosen, names, out=out)
        frame, seen, sound = chosen.moment(source, time)
    mask = _masks(chosen, [seen], [sound], frame.shape[:2])[0]
    write_mask(out, mask, classes=chosen.config.head.classes)
    if overlay is not None:
        write_png(overlay, lay_over(frame, mask, names=_written(names)))
    counts = np.bincount(mask.reshape(-1), minlength=len(names))
    return SegmentationResult(_shares(counts, names), 1, chosen.checkpoint, mask, time)


@torch.no_grad()
def _masks(
    chosen: Chosen, images: Sequence[np.ndarray], sounds: Sequence[np.ndarray], size: tuple[int, int]
) -> np.ndarray:
    """Masks uint8 (B, H, W) in ``size`` of views, B frames uint8 (3, rows, columns) and sounds int16 (N,)."""
    logits = chosen.check_finite(chosen.module(*chosen.inputs(images, sounds)), "masks")
    return np.stack([_mask(one, size) for one in logits.split(1)])


def _mask(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """The mask uint8 (H, W) that ``logits`` (1, C, h, w) give in ``size``."""
    full = resized_logits(logits, size)[0]
    found = full[0] > 0 if len(full) == 1 else full.argmax(dim=0)
    return found.to(torch.uint8).cpu().numpy()


def _check_outputs(
    out: Path, overlay: Path | None, at: float | None, *, inputs: Sequence[Path | None], force: bool
) -> None:
    """UsageError for outputs that cannot be written, go with no other option, or would take an input's place."""
    if out.suffix.lower() not in (".png", VIDEO):
        raise UsageError(
            f"--out {out} is named neither .png nor {VIDEO}",
            hint=f"--out {out.with_suffix('.png')}, or --out {out.with_suffix(VIDEO)} for the whole clip",
        )
    if out.suffix.lower() == VIDEO:
        for option, given in (("--overlay", overlay), ("--at", at)):
            if given is not None:
                raise UsageError(
                    f"{option} is of one frame, and --out {out} shows all of them, each under its mask",
                    hint=f"leave it out, or name a picture: --out {out.with_suffix('.png')}",
                )
    check_output(out, force=force, others=inputs)
    if overlay is not None:
        check_output(overlay, force=force, option="--overlay", suffix=".png", others=(*inputs, out))


def _names(chosen: Chosen) -> tuple[str, ...]:
    """What each number of a mask means."""
    classes = chosen.config.head.classes
    if classes == 1:
        return "background", "sounding"
    return ClassNames.of(chosen.checkpoint, count=classes).names


def _written(names: tuple[str, ...]) -> Sequence[str]:
    """The names that are written into a picture: none where there is but one."""
    return names if len(names) > 2 else ()


def _shares(counts: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    found = {names[k]: float(counts[k] / counts.sum()) for k in range(1, len(names)) if counts[k]}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _segment_clip(clip: Clip, chosen: Chosen, names: tuple[str, ...], *, out: Path) -> SegmentationResult:
    """Write ``clip`` under its masks."""
    whole = WholeClip(clip, chosen)
    seen = whole.frames(whole.fps())
    first = next(seen)
    counts, frames = np.zeros(len(names), np.int64), 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal counts, frames
        with progress_bar("segment", total=None, unit="frames") as bar:
            for part in batched(chain([first], seen), FRAMES_AT_ONCE):
                sounds = [whole.heard(one.time) for one in part]
                found = _masks(chosen, [one.view for one in part], sounds, first.frame.shape[:2])
                counts += np.bincount(found.reshape(-1), minlength=len(names))
                frames += len(part)
                for one, mask in zip(part, found, strict=True):
                    yield lay_over(one.frame, mask, names=_written(names))
                bar.advance(len(part))

    whole.write(out, pictures(), start=first.time)
    whole.say_where_sound_ends()
    return SegmentationResult(_shares(counts, names), frames, chosen.checkpoint)
