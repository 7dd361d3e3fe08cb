"""Which pixels of a frame, or of a whole clip, sound: the Python API behind ``avtool segment``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avtool.clip import Clip
from avtool.devices import resolve_device
from avtool.errors import UsageError
from avtool.files import check_output, write_numpy
from avtool.predict import Chosen, batched, choose_model
from avtool.progress import progress_bar
from avtool.report.heatmap import write_png
from avtool.report.overlay import lay_over, write_mask
from avtool.tasks.names import ClassNames
from avtool.tasks.segment.train import resized as resized_logits
from avtool.whole import VIDEO, Shown, WholeClip, check_moves

FRAMES_AT_ONCE = 8
PICTURE, MASKS = ".png", ".npz"
STEP = 0.5
"""Seconds from one mask of an .npz to the next."""


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
    every: float | None = None,
    device: str = "auto",
    force: bool = False,
) -> SegmentationResult:
    """Mark what sounds in ``clip``, a video or a picture with the sound file ``audio``.

    ``out`` ending in .png: the mask of the frame ``at`` so many seconds (None: the middle), of the frame's own size;
    from a model of one class 255 where it sounds, from one of several the class numbers, with a palette. ``overlay``:
    also the frame under its mask, a PNG. ``out`` ending in .mp4: the whole clip under its masks, each of a frame and
    the sound around it, with the clip's own sound (or ``audio``'s) as one channel; ending in .npz: the masks alone, one
    ``every`` so many seconds (None: ``STEP``), uint8 (T, rows, columns) as the model sees the frame, with their
    ``times``, the ``names`` of their numbers, and where ``clip``, ``sound`` and ``model`` lie. A frame is seen whole,
    squeezed to the model's size, and a pixel is marked whose probability is above one half, or whose likeliest class is
    not the background. ``model``: a run, checkpoint or converted folder (None: see ``avtool.places.find_model``), or
    what ``choose_model`` gave.

    The clip is looked at before any weights are loaded. AvtoolError where the clip, the model or an output cannot be
    used.
    """
    _check_outputs(out, overlay, at, every, inputs=(clip, audio), force=force)
    target = resolve_device(device)
    whole_clip = out.suffix.lower() != PICTURE
    with Clip(clip, audio) as source:
        time = source.time(at)
        if whole_clip:
            check_moves(source, out)
        chosen = choose_model(model, device=target, task="segment")
        names = _names(chosen)
        if whole_clip:
            return _segment_clip(source, chosen, names, out=out, every=every or STEP)
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
    out: Path,
    overlay: Path | None,
    at: float | None,
    every: float | None,
    *,
    inputs: Sequence[Path | None],
    force: bool,
) -> None:
    """UsageError for outputs that cannot be written, go with no other option, or would take an input's place."""
    kind = out.suffix.lower()
    if kind not in (PICTURE, VIDEO, MASKS):
        raise UsageError(
            f"--out {out} is named neither {PICTURE}, {VIDEO} nor {MASKS}",
            hint=f"--out {out.with_suffix(PICTURE)}, or --out {out.with_suffix(VIDEO)} for the whole clip",
        )
    if kind != PICTURE:
        for option, given in (("--overlay", overlay), ("--at", at)):
            if given is not None:
                raise UsageError(
                    f"{option} is of one frame, and --out {out} is of all of them",
                    hint=f"leave it out, or name a picture: --out {out.with_suffix(PICTURE)}",
                )
    if kind != MASKS and every is not None:
        raise UsageError(
            f"--every says nothing where --out {out} is written",
            hint=f"leave it out, or --out {out.with_suffix(MASKS)}",
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


def _segment_clip(
    clip: Clip, chosen: Chosen, names: tuple[str, ...], *, out: Path, every: float
) -> SegmentationResult:
    """Write ``clip`` under its masks, or the masks alone, one ``every`` so many seconds."""
    whole, counts = WholeClip(clip, chosen), np.zeros(len(names), np.int64)
    video = out.suffix.lower() == VIDEO
    seen = whole.frames(whole.fps() if video else 1 / every)
    first = next(seen)
    size = first.frame.shape[:2] if video else chosen.config.image_size

    def judged() -> Iterator[tuple[Shown, np.ndarray]]:
        with progress_bar("segment", total=None, unit="frames") as bar:
            for part in batched(chain([first], seen), FRAMES_AT_ONCE):
                sounds = [whole.heard(one.time) for one in part]
                masks = _masks(chosen, [one.view for one in part], sounds, size)
                for one, mask in zip(part, masks, strict=True):
                    counts[:] += np.bincount(mask.reshape(-1), minlength=len(names))
                    yield one, mask
                bar.advance(len(part))

    if video:
        pictures = (lay_over(one.frame, mask, names=_written(names)) for one, mask in judged())
        whole.write(out, pictures, start=first.time)
    else:
        times, masks = zip(*((one.time, mask) for one, mask in judged()), strict=True)
        arrays: dict[str, Any] = {"times": times, "masks": np.stack(masks), "names": names, **whole.names()}
        write_numpy(out, partial(np.savez_compressed, **arrays))
    whole.say_where_sound_ends()
    frames = int(counts.sum()) // (size[0] * size[1])
    return SegmentationResult(_shares(counts, names), frames, chosen.checkpoint)
