"""The embedded data set: clips of sounding objects that avtool renders itself, with the truth for everything.

``render`` writes real H.264 + AAC files and a manifest that ``avtool prepare`` reads like any other. Ten
kinds of objects (``KINDS``) differ in look and in the physics of their sound; two to four are in view,
one or two of them sound, the others are silent distractors of the same kinds. Everything about a clip
follows from the seed and the clip's number: clip 7 of 10 is clip 7 of 1000. ``describe(seed, clip)`` is a
clip's scene, and ``Stage(describe(seed, clip)).frame(MIDDLE)`` its middle frame, without rendering the
clip.

The folder:

- ``clips/ID.mp4``: 4 s, 8 frames/s of 160 x 160 pixels, 16 kHz mono
- ``masks/ID.png``: uint8, on the middle frame: 0 elsewhere, k where the k-th sounding object is seen
- ``stems/ID.K.wav``: the waveform of the k-th sounding object, 16 bit, 16 kHz; they add up to the clip's
  sound
- ``manifest.csv``: id, split, label, video, boxes, mask, stems, view. ``label``, ``boxes`` and ``stems``
  (a JSON list of paths) go through the sounding objects in one order. ``view`` is a JSON list of all
  objects in view, in painting order: kind, box, sounding.
"""

import csv
import io
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile

from avtool import media
from avtool.data.synth.scene import FPS, FRAMES, KINDS, MIDDLE, SECONDS, SIZE, Scene, Stage, box_of, describe
from avtool.data.synth.sounds import SAMPLE_RATE, source
from avtool.errors import UsageError
from avtool.files import atomic_file, json_text

__all__ = [
    "COLUMNS", "FPS", "FRAMES", "KINDS", "MIDDLE", "SAMPLE_RATE", "SECONDS", "SIZE",
    "Scene", "Stage", "box_of", "describe", "render", "stems_of",
]  # fmt: skip

CLIPS_PER_PROCESS = 50
"""Fewer clips than this are rendered sooner than another process starts."""

COLUMNS = ("id", "split", "label", "video", "boxes", "mask", "stems", "view")


def render(folder: Path, *, clips: int, seed: int, progress: Callable[[int], None] | None = None) -> Path:
    """Render ``clips`` clips into ``folder`` and return the path of its manifest.

    ``progress`` is called with 1 after each clip. The manifest is written last: where it is, the data set is
    whole. UsageError where ``clips`` is below 1 or ``seed`` negative.
    """
    if clips < 1:
        raise UsageError(f"cannot render {clips} clips", hint="ask for at least one: --clips 300")
    if seed < 0:
        raise UsageError(f"the seed {seed} is negative", hint="choose a seed of 0 or more: --seed 0")
    for name in ("clips", "masks", "stems"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for row in _rendered(folder, clips, seed):
        rows.append(row)
        if progress is not None:
            progress(1)
    with atomic_file(folder / "manifest.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def stems_of(scene: Scene) -> np.ndarray:
    """Each source's own waveform, in the labels' order: int16 (sources, samples); their sum never clips."""
    waves = [source(t.kind, scene.rng(4, KINDS.index(t.kind)), SECONDS * SAMPLE_RATE) for t in scene.sounding]
    return np.rint(np.stack(waves) * 32767).astype(np.int16)


def _rendered(folder: Path, clips: int, seed: int) -> Iterator[dict[str, str]]:
    """The rows of all clips in order, rendered by as many processes as pay off."""
    render_one = partial(_render_clip, folder, seed)
    processes = min(os.cpu_count() or 1, clips // CLIPS_PER_PROCESS)
    if processes < 2:
        yield from map(render_one, range(clips))
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_process) as pool:
        try:
            yield from pool.map(render_one, range(clips), chunksize=4)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_process() -> None:
    """Ctrl-C is the parent's to handle, and one thread a process is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


def _render_clip(folder: Path, seed: int, clip: int) -> dict[str, str]:
    """Write one clip's files; return its row of the manifest."""
    name, scene = f"synth-{clip:06d}", describe(seed, clip)
    stage, stems = Stage(scene), stems_of(scene)
    media.write_clip(
        folder / f"clips/{name}.mp4",
        (stage.frame(index) for index in range(FRAMES)),
        fps=FPS,
        waveform=(stems.sum(0) / 32768).astype(np.float32),
        sample_rate=SAMPLE_RATE,
    )
    label_map = np.zeros((SIZE, SIZE), np.uint8)
    view: list[dict[str, Any]] = []
    for thing, mask in zip(scene.things, stage.masks(), strict=True):
        label_map[mask] = thing.voice
        box = [round(value, 5) for value in box_of(mask)]
        view.append({"kind": thing.kind, "box": box, "sounding": thing.voice > 0})
    (folder / f"masks/{name}.png").write_bytes(cv2.imencode(".png", label_map)[1].tobytes())
    files = [f"stems/{name}.{k}.wav" for k in range(1, len(stems) + 1)]
    for file, stem in zip(files, stems, strict=True):
        sound = io.BytesIO()  # so that a full disk is an OSError
        soundfile.write(sound, stem, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        (folder / file).write_bytes(sound.getvalue())
    sounding = [view[scene.things.index(thing)] for thing in scene.sounding]
    return {
        "id": name,
        "split": scene.split,
        "label": ";".join(shown["kind"] for shown in sounding),
        "video": f"clips/{name}.mp4",
        "boxes": json_text([shown["box"] for shown in sounding]),
        "mask": f"masks/{name}.png",
        "stems": json_text(files),
        "view": json_text(view),
    }
