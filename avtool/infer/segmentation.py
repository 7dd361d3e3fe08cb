"""Which pixels of a frame, or of a whole clip, sound: the Python API behind ``avtool segment``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from avtool.checkpoint import load_model
from avtool.data.checks import refusal
from avtool.devices import resolve_device
from avtool.errors import CheckpointError, UsageError
from avtool.features import to_float_waveform, window_samples
from avtool.files import check_output
from avtool.infer.scene import Scene, check_size, listen, look
from avtool.inputs import fit_window
from avtool.media import UnusableMedia, is_picture, probe, read_waveform, write_clip
from avtool.media.frames import shown_frames
from avtool.model.config import Config, read_model_config
from avtool.places import find_model
from avtool.progress import progress_bar, say, warn
from avtool.report.heatmap import write_png
from avtool.report.overlay import lay_over, write_mask
from avtool.tasks.maps import whole_frame
from avtool.tasks.names import ClassNames
from avtool.tasks.segment import KIND, resized

FASTEST = 15
"""Frames a second of a written video at most: of a faster one, every second, third, ... is taken."""
FRAMES_AT_ONCE = 8
VIDEO = ".mp4"
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Sample rates that AAC has; sound of another one is resampled to the first of them above it."""
Masked = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Masks uint8 (B, H, W) of frames uint8 (B, H, W, 3) and sounds int16 (B, N)."""


@dataclass(frozen=True)
class Found:
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
    model: Path | None = None,
    at: float | None = None,
    device: str = "auto",
    force: bool = False,
) -> Found:
    """Mark what sounds in ``clip``, a video or a picture with the sound file ``audio``.

    ``out`` ending in .png: the mask of the frame ``at`` so many seconds (None: the middle), of the frame's own size;
    from a model of one class 255 where it sounds, from one of several the class numbers, with a palette. ``overlay``:
    also the frame under its mask, a PNG. ``out`` ending in .mp4: the whole clip under its masks, each of a frame and
    the sound around it, with the clip's own sound (or ``audio``'s) as one channel. A frame is seen whole, squeezed to
    the model's size, and a pixel is marked whose probability is above one half, or whose likeliest class is not the
    background. ``model``: a run, checkpoint or converted folder (None: see ``avtool.places.find_model``).

    The clip is looked at before any weights are loaded. AvtoolError where the clip, the model or an output cannot be
    used.
    """
    _check_outputs(out, overlay, at, inputs=(clip, audio), force=force)
    target = resolve_device(device)
    scene = look(clip, audio, at)
    whole_clip = out.suffix.lower() == VIDEO
    if whole_clip and is_picture(clip):
        raise UsageError(
            f"{clip} is a picture, and --out {out} a video", hint=f"--out {out.with_suffix('.png')}"
        )
    chosen = _Chosen.of(model)
    if whole_clip:
        sound = _whole_sound(scene, chosen.config)
        return _segment_clip(clip, scene.sound, sound, chosen, chosen.load(target), out=out)
    sound = listen(scene, chosen.config)
    mask = chosen.load(target)(scene.frame[None], sound[None])[0]
    write_mask(out, mask, classes=chosen.config.model["classes"])
    if overlay is not None:
        write_png(overlay, lay_over(scene.frame, mask, names=chosen.labels))
    counts = np.bincount(mask.reshape(-1), minlength=len(chosen.names))
    return Found(_shares(counts, chosen.names), 1, chosen.checkpoint, mask, scene.time)


@dataclass(frozen=True)
class _Chosen:
    """A segmentation model before its weights are loaded, and the ``names`` of its masks' numbers."""

    checkpoint: Path
    config: Config
    names: tuple[str, ...]

    @classmethod
    def of(cls, model: Path | None) -> _Chosen:
        """AvtoolError where ``model`` is not one."""
        checkpoint, found = find_model(model)
        say(f"model {checkpoint} (from {found})")
        config = read_model_config(checkpoint)
        if config.kind != KIND:
            raise UsageError(
                f"{checkpoint} has no segmentation head: it is of kind {config.kind}",
                hint=f"avtool finetune segment --recipe tiny-segment --from {checkpoint}",
            )
        check_size(config, checkpoint)
        return cls(checkpoint, config, _names(config, checkpoint))

    @property
    def labels(self) -> Sequence[str]:
        """The names that are written into a picture: none where there is but one."""
        return self.names if len(self.names) > 2 else ()

    def load(self, device: torch.device) -> Masked:
        """The loaded model, as frames and sounds in and masks out."""
        model, log_mel, _ = load_model(self.checkpoint, device=device)
        size = tuple(self.config.model["image_size"])

        @torch.no_grad()
        def masks(frames: np.ndarray, sounds: np.ndarray) -> np.ndarray:
            image = torch.cat([whole_frame(frame, size) for frame in frames]).to(device)
            heard = log_mel(to_float_waveform(torch.from_numpy(sounds).to(device)))
            logits = model(image, heard)
            if not logits.isfinite().all():
                raise CheckpointError(
                    f"{self.checkpoint} gives masks that are not finite", hint="use an earlier checkpoint"
                )
            return np.stack([_mask(one, frames.shape[1:3]) for one in logits.split(1)])

        return masks


def _mask(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """The mask uint8 (H, W) that ``logits`` (1, C, h, w) give in ``size``."""
    full = resized(logits, size)[0]
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
    if overlay is not None and overlay.suffix.lower() != ".png":
        raise UsageError(
            f"--overlay {overlay} is not named .png", hint=f"--overlay {overlay.with_suffix('.png')}"
        )
    if out.suffix.lower() == VIDEO:
        for option, given in (("--overlay", overlay), ("--at", at)):
            if given is not None:
                raise UsageError(
                    f"{option} is of one frame, and --out {out} shows all of them, each under its mask",
                    hint=f"leave it out, or name a picture: --out {out.with_suffix('.png')}",
                )
    for option, path in (("--out", out), ("--overlay", overlay)):
        if path is None:
            continue
        check_output(path, force=force, option=option)
        others = (*inputs, out if option == "--overlay" else None)
        if any(other is not None and _same(path, other) for other in others):
            raise UsageError(
                f"{option} {path} would replace another file of this command", hint=f"choose another {option}"
            )


def _same(first: Path, second: Path) -> bool:
    if first.exists() and second.exists():
        return first.samefile(second)
    return first.absolute() == second.absolute()


def _names(config: Config, checkpoint: Path) -> tuple[str, ...]:
    """What each number of a mask means."""
    classes = config.model["classes"]
    if classes == 1:
        return "background", "sounding"
    names = ClassNames.read(checkpoint, count=classes)
    if names is None:
        say(f"{checkpoint} was saved without the names of its classes: they are numbered")
        return tuple(map(str, range(classes)))
    return names.names


def _shares(counts: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    found = {names[k]: float(counts[k] / counts.sum()) for k in range(1, len(names)) if counts[k]}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _whole_sound(scene: Scene, config: Config) -> np.ndarray:
    """All that is heard, int16 (N,) at the model's rate. UnusableMedia where that is nothing."""
    rate = config.spectrogram["sample_rate"]
    sound = read_waveform(scene.sound, sample_rate=rate)
    if reason := refusal(sound, rate):
        raise UnusableMedia(
            f"{scene.sound} has {reason}", reason=reason, hint="give another sound with --audio WAV"
        )
    return sound


def _segment_clip(
    clip: Path, sound_file: Path, sound: np.ndarray, chosen: _Chosen, masks: Masked, *, out: Path
) -> Found:
    """Write ``clip`` under its masks, with the sound of ``sound_file``; ``sound`` is that as the model hears it."""
    config, names = chosen.config, chosen.names
    rate = config.spectrogram["sample_rate"]
    count = window_samples(config.model["audio_size"][1], config.spectrogram["hop"])
    fps = slower(probe(clip).fps)
    counts, frames, last = np.zeros(len(names), np.int64), 0, 0.0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal counts, frames, last
        with progress_bar("segment", total=None, unit="frames") as bar:
            for part in _parts(_even(shown_frames(clip, rate=fps)), FRAMES_AT_ONCE):
                heard = np.stack([window_around(sound, time, count, rate) for _, time in part])
                found = masks(np.stack([frame for frame, _ in part]), heard)
                counts += np.bincount(found.reshape(-1), minlength=len(names))
                frames, last = frames + len(part), part[-1][1]
                for (frame, _), mask in zip(part, found, strict=True):
                    yield lay_over(frame, mask, names=chosen.labels)
                bar.advance(len(part))

    own_rate = probe(sound_file).sound_rate
    kept_rate = next((known for known in AAC_RATES if known >= own_rate), AAC_RATES[-1])
    waveform = read_waveform(sound_file, sample_rate=kept_rate).astype(np.float32) / 32768
    write_clip(out, pictures(), fps=fps, waveform=waveform, sample_rate=kept_rate)
    if len(sound) < last * rate - count / 2:
        warn(
            f"{sound_file} has sound up to {len(sound) / rate:.1f} s: frames more than {count / rate / 2:.1f} s after "
            f"that are judged by the last of it"
        )
    return Found(_shares(counts, names), frames, chosen.checkpoint)


def slower(fps: float) -> float:
    """``fps`` over the smallest whole number that brings it to ``FASTEST`` or below; that where it is unknown."""
    return fps / math.ceil(fps / FASTEST) if fps > 0 else FASTEST


def window_around(sound: np.ndarray, time: float, count: int, rate: int) -> np.ndarray:
    """``count`` samples around ``time`` seconds, moved to lie inside ``sound`` (N,), reflected where it is shorter."""
    start = min(max(0, round(time * rate) - count // 2), max(0, len(sound) - count))
    return fit_window(sound[start : start + count], count)


def _even(frames: Iterable[tuple[np.ndarray, float]]) -> Iterator[tuple[np.ndarray, float]]:
    """Frames without a last row or column that would make them odd, which H.264 does not take."""
    for frame, time in frames:
        height, width = (side - side % 2 for side in frame.shape[:2])
        yield frame[:height, :width], time


def _parts(frames: Iterator[tuple[np.ndarray, float]], size: int) -> Iterator[list[tuple[np.ndarray, float]]]:
    while part := list(islice(frames, size)):
        yield part
