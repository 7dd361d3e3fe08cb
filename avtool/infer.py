"""Running a model on one's own clips: the Python API behind ``avtool localize``."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from avtool.checkpoint import load_model
from avtool.data.checks import SILENT, refusal
from avtool.data.views import fit_window
from avtool.devices import resolve_device
from avtool.errors import CheckpointError, MediaError, UsageError
from avtool.evaluate import kept_localization
from avtool.features import to_float_waveform, window_samples
from avtool.files import atomic_file, check_output
from avtool.media import (
    NO_SOUND,
    NO_VIDEO,
    UnusableMedia,
    check_file,
    probe,
    read_frame,
    read_image,
    read_waveform,
)
from avtool.model.config import Config, read_model_config
from avtool.places import find_model
from avtool.progress import say
from avtool.report.heatmap import render_heatmap, write_png
from avtool.tasks.localize import MAPS, choose_map, localization_map, upsample, whole_frame


@dataclass(frozen=True)
class HeatMap:
    """What ``localize`` found. ``map``: float32 (H, W) at the size of ``frame``, uint8 (H, W, 3) RGB, in the
    units of its ``kind`` (see ``avtool.tasks.localize``), not normalised. ``time``: of the frame, in seconds,
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
) -> HeatMap:
    """Show where in the frame of ``clip`` its sound comes from, in the picture ``out``.

    ``clip`` is a video, or a picture with the sound file ``audio``; with a video, ``audio`` takes the place
    of its own sound. ``at``: seconds from the start (None: the middle) of the frame and of the middle of the
    sound heard, which is as long as the model was trained on, moved to lie inside the clip and reflected
    where the clip is shorter; for a picture, of the sound file. ``map``: a kind in
    ``avtool.tasks.localize.MAPS`` (None: the model's own). ``raw``: also write the map, float32 (H, W) of the
    frame, as .npy: what the picture shows before it is scaled to its colours. ``model``: a run, checkpoint or
    converted folder (None: see ``avtool.places.find_model``).

    The clip is looked at before any weights are loaded, and nothing is written before all is computed. Raises
    AvtoolError where the clip, the model or an output cannot be used.
    """
    _check_outputs(out, raw, inputs=(clip, audio), force=force)
    target = resolve_device(device)
    if map is not None and map not in MAPS:
        raise UsageError(f"there is no map {map!r}", hint=f"choose one of {', '.join(MAPS)}")
    scene = _look(clip, audio, at)
    checkpoint, found = find_model(model)
    say(f"model {checkpoint} (from {found})")
    waveform = _listen(scene, read_model_config(checkpoint))
    loaded, log_mel, _ = load_model(checkpoint, device=target)
    encoder = loaded.encoder
    kind = choose_map(encoder, map)
    size = (encoder.image_grid[0] * encoder.patch_size, encoder.image_grid[1] * encoder.patch_size)
    sound = log_mel(to_float_waveform(torch.from_numpy(waveform)[None].to(target)))
    maps = localization_map(encoder, whole_frame(scene.frame, size).to(target), sound, kind=kind)
    heat = upsample(maps, scene.frame.shape[:2])[0].cpu().numpy()
    if not np.isfinite(heat).all():
        raise CheckpointError(
            f"{checkpoint} gives a map that is not finite", hint="use an earlier checkpoint"
        )
    kept = kept_localization(checkpoint, kind)
    result = HeatMap(heat, scene.frame, scene.time, kind, checkpoint, kept.warning() if kept else "")
    _write(result, out, raw, caption=_caption(result, clip, audio))
    return result


def _check_outputs(out: Path, raw: Path | None, *, inputs: tuple[Path | None, ...], force: bool) -> None:
    """UsageError for outputs that cannot be written, or would take the place of each other or of an input."""
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} is not named .png", hint=f"--out {out.with_suffix('.png')}")
    if raw is not None and raw.suffix.lower() != ".npy":
        raise UsageError(f"--raw {raw} is not named .npy", hint=f"--raw {raw.with_suffix('.npy')}")
    for option, path in (("--out", out), ("--raw", raw)):
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(
                f"{option} {path} is a folder, a file is needed",
                hint=f"{option} {path / 'heatmap'}{path.suffix}",
            )
        check_output(path, force=force, option=option)
        if path.exists() and any(given and given.exists() and path.samefile(given) for given in inputs):
            raise UsageError(
                f"{option} {path} would replace the clip itself", hint=f"choose another {option}"
            )


@dataclass(frozen=True)
class _Scene:
    """What is seen, uint8 (H, W, 3), at ``time`` seconds, and the file of what is heard, with its length in
    seconds.
    """

    frame: np.ndarray
    time: float
    sound: Path
    length: float


def _look(clip: Path, audio: Path | None, at: float | None) -> _Scene:
    """The frame, and where its sound is. MediaError or UsageError where the clip cannot be used."""
    check_file(clip)
    sound = None if audio is None else probe(audio)
    if sound is not None and not sound.has_sound:
        raise UnusableMedia(f"{audio} has no sound track", reason=NO_SOUND, hint="give another --audio")
    if cv2.haveImageReader(str(clip)):
        if audio is None or sound is None:
            raise UsageError(
                f"{clip} is a picture and has no sound of its own",
                hint=f"avtool localize {clip} --audio SOUND.wav",
            )
        if at is not None and not 0 <= at <= sound.duration:
            raise MediaError(
                f"{audio} is {sound.duration:.2f} s long: there is no sound at {at:g} s",
                hint=f"choose a time from 0 to {sound.duration:.2f}",
            )
        return _Scene(read_image(clip), sound.duration / 2 if at is None else at, audio, sound.duration)
    info = probe(clip)
    if not info.has_video:
        raise UnusableMedia(
            f"{clip} has no video",
            reason=NO_VIDEO,
            hint=f"give a picture with it: avtool localize IMAGE --audio {clip}",
        )
    if sound is None and not info.has_sound:
        raise UnusableMedia(
            f"{clip} has no sound track",
            reason=NO_SOUND,
            hint="give its sound as a file of its own: --audio WAV",
        )
    time = info.duration / 2 if at is None else at
    return _Scene(read_frame(clip, time)[0], time, audio or clip, (sound or info).duration)


def _listen(scene: _Scene, config: Config) -> np.ndarray:
    """The model's window of sound around the scene's time, moved to lie inside the sound there is: int16
    (N,).
    """
    rate = config.spectrogram["sample_rate"]
    count = window_samples(config.model["audio_size"][1], config.spectrogram["hop"])
    first = max(0, min(round(scene.time * rate) - count // 2, round(scene.length * rate) - count))
    waveform = read_waveform(scene.sound, sample_rate=rate, start=first / rate, end=(first + count) / rate)
    if len(waveform) < count and first > 0:  # the sound ends before the picture: take the last of it
        waveform = read_waveform(scene.sound, sample_rate=rate)[-count:]
    reason = refusal(waveform, rate)
    if reason is None:
        return fit_window(waveform, count)
    what = f"{len(waveform) / rate:.1f} s of {reason}" if reason == SILENT else reason
    raise UnusableMedia(
        f"{scene.sound} has {what} around {scene.time:.2f} s",
        reason=reason,
        hint="choose another time with --at, or give a sound with --audio WAV",
    )


def _caption(result: HeatMap, clip: Path, audio: Path | None) -> list[str]:
    sound = f", sound of {audio.name}" if audio is not None else ""
    return [f"{clip.name} at {result.time:.2f} s{sound}", MAPS[result.kind].words, f"model {result.model}"]


def _write(result: HeatMap, out: Path, raw: Path | None, *, caption: list[str]) -> None:
    picture = render_heatmap(result.frame, result.map, caption=caption, warning=result.warning)
    if raw is not None:
        array = io.BytesIO()  # so that a full disk is an OSError with its reason
        np.save(array, result.map)
        with atomic_file(raw) as partial:
            partial.write_bytes(array.getvalue())
    write_png(out, picture)
