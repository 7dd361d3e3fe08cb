"""Where in a frame its sound comes from: the Python API behind ``avtool localize``."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avtool.clip import Clip
from avtool.devices import resolve_device
from avtool.errors import UsageError
from avtool.features import upsampled
from avtool.files import atomic_file, check_output, printable
from avtool.inputs import SHORT_SIDE, shown, whole_crop
from avtool.predict import choose_model
from avtool.report.heatmap import render_heatmap, write_png
from avtool.tasks.localize.maps import EVERY, choose_map, localization_map, words_of
from avtool.tasks.localize.pointing import kept_localization


@dataclass(frozen=True)
class LocalizationResult:
    """What ``localize`` found. ``map``: float32 (H, W) at the size of ``frame``, uint8 (H, W, 3) RGB, in the
    units of its ``kind`` (see ``avtool.tasks.localize.maps``), not normalised. ``time``: of the frame, in seconds,
    and for a picture of the middle of the sound. ``model``: the checkpoint folder. ``warning``: what speaks
    against the map."""

    map: np.ndarray
    frame: np.ndarray
    time: float
    kind: str
    model: Path
    warning: str


def localize(
    clip: Path,
    *,
    out: Path = Path("heatmap.png"),
    audio: Path | None = None,
    model: Path | None = None,
    at: float | None = None,
    map: str | None = None,
    raw: Path | None = None,
    device: str = "auto",
    force: bool = False,
) -> LocalizationResult:
    """Show where in the frame of ``clip`` its sound comes from, in the picture ``out``.

    ``clip`` is a video, or a picture with the sound file ``audio``; with a video, ``audio`` takes the place
    of its own sound. ``at``: seconds from the start (None: the middle) of the frame and of the middle of the
    sound heard, which is as long as the model was trained on, moved to lie inside the clip and reflected
    where the clip is shorter; for a picture, of the sound file. ``map``: a kind in
    ``avtool.tasks.localize.maps.EVERY`` (None: the model's own). ``raw``: also write the map, float32 (H, W) of the
    frame, as .npy: what the picture shows before it is scaled to its colours. ``model``: a run, checkpoint or
    converted folder (None: see ``avtool.places.find_model``).

    The clip is looked at before any weights are loaded, and nothing is written before all is computed. Raises
    AvtoolError where the clip, the model or an output cannot be used.
    """
    check_output(out, force=force, suffix=".png", others=(clip, audio))
    if raw is not None:
        check_output(raw, force=force, option="--raw", suffix=".npy", others=(clip, audio))
    if map is not None and map not in EVERY:
        raise UsageError(f"there is no map {map!r}", hint=f"choose one of {', '.join(EVERY)}")
    target = resolve_device(device)
    with Clip(clip, audio) as source:
        time = source.time(at)
        chosen = choose_model(model, device=target)
        waveform = source.sound_around(time, count=chosen.config.window, rate=chosen.config.rate)
        picture = source.fresh_frame(time)
        frame, seen = picture.rgb(), shown(picture.rgb(SHORT_SIDE), chosen.config.image_size, whole_crop)
    kind = choose_map(chosen.module, map)
    maps = localization_map(chosen.module, *chosen.inputs([seen], [waveform]), kind=kind)
    heat = upsampled(chosen.check_finite(maps, "maps").cpu().numpy(), frame.shape[:2])[0].astype(np.float32)
    kept = kept_localization(chosen.checkpoint, kind)
    result = LocalizationResult(heat, frame, time, kind, chosen.checkpoint, kept.warning() if kept else "")
    _write(result, out, raw, caption=_caption(result, clip, audio))
    return result


def _caption(result: LocalizationResult, clip: Path, audio: Path | None) -> list[str]:
    sound = f", sound of {audio.name}" if audio is not None else ""
    lines = f"{clip.name} at {result.time:.2f} s{sound}", words_of(result.kind), f"model {result.model}"
    return [printable(line) for line in lines]


def _write(result: LocalizationResult, out: Path, raw: Path | None, *, caption: list[str]) -> None:
    picture = render_heatmap(result.frame, result.map, caption=caption, warning=result.warning)
    if raw is not None:
        array = io.BytesIO()  # so that a full disk is an OSError with its reason
        np.save(array, result.map)
        with atomic_file(raw) as partial:
            partial.write_bytes(array.getvalue())
    write_png(out, picture)
