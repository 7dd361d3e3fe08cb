"""One's own clips as a model takes them, window by window; several clips, one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from avtool.checkpoint import load_model
from avtool.data.checks import refusal
from avtool.errors import AvtoolError, CheckpointError, MediaError, UsageError, explain
from avtool.features import LogMel, normalize_frames, to_float_waveform, window_samples
from avtool.infer.scene import Scene, check_size, look
from avtool.inputs import centre_crop, fit_window
from avtool.media import UnusableMedia, is_picture, read_frame, read_waveform
from avtool.model.config import Config
from avtool.progress import progress_bar, warn

WINDOWS_AT_ONCE = 16
Failed = Callable[[Path, AvtoolError], None]
"""Told of a clip that could not be used, and why."""
Compute = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]
"""Results (W, ...) by name of a model with the frames (W, 3, H, W') and log-mels (W, 1, mels, frames) of windows."""


class Windows(NamedTuple):
    """Some windows of a clip, W of them: ``times`` float64 (W, 2), start and end in seconds; ``frames`` uint8
    (W, 3, H, W'), of the middle of each, cropped as evaluation crops; ``waveforms`` int16 (W, N)."""

    times: np.ndarray
    frames: np.ndarray
    waveforms: np.ndarray


class Computed(NamedTuple):
    """What was computed of a clip: ``times`` float64 (W, 2) of its windows, ``results`` float32 (W, ...) by name."""

    clip: Path
    times: np.ndarray
    results: dict[str, np.ndarray]


@dataclass(frozen=True)
class Clips:
    """Videos, or one picture with the sound file ``audio``, for one model. ``every``: see ``windows_of``.

    A clip that cannot be used is told to ``failed`` and left out, or its error raised where that is None.
    """

    clips: Sequence[Path]
    audio: Path | None
    every: float | None
    failed: Failed | None

    def __post_init__(self) -> None:
        if self.audio is not None and len(self.clips) != 1:
            raise UsageError(
                f"--audio goes with one picture or clip, not with {len(self.clips)}", hint="name one clip"
            )

    def compute(
        self, checkpoint: Path, config: Config, device: torch.device, compute: Compute
    ) -> Iterator[Computed]:
        """What ``compute`` gives of each clip, one after the other. The weights are loaded once the first clip is found
        to be usable. CheckpointError where a result is not finite."""
        check_size(config, checkpoint)
        loaded: tuple[nn.Module, LogMel] | None = None
        for clip in self.clips:
            try:
                scene = look(clip, self.audio, None)
                loaded = loaded or load_model(checkpoint, device=device)[:2]
                parts = [
                    (windows.times, _computed(*loaded, windows, device, compute))
                    for windows in windows_of(clip, scene, config, every=self.every)
                ]
            except (MediaError, UsageError, OSError) as error:
                self._tell(clip, error)
                continue
            found = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
            if not all(np.isfinite(values).all() for values in found.values()):
                raise CheckpointError(
                    f"{checkpoint} gives numbers that are not finite", hint="use an earlier checkpoint"
                )
            yield Computed(clip, np.concatenate([times for times, _ in parts]), found)

    def _tell(self, clip: Path, error: Exception) -> None:
        known = explain(error)
        if self.failed is None or known is None:
            raise error
        self.failed(clip, known)


@torch.no_grad()
def _computed(
    model: nn.Module, log_mel: LogMel, windows: Windows, device: torch.device, compute: Compute
) -> dict[str, np.ndarray]:
    image = normalize_frames(torch.from_numpy(windows.frames).to(device))
    sound = log_mel(to_float_waveform(torch.from_numpy(windows.waveforms).to(device)))
    return {name: value.float().cpu().numpy() for name, value in compute(model, image, sound).items()}


def window_seconds(config: Config) -> float:
    """Length of the sound that a model hears at once."""
    return _window_samples(config) / config.spectrogram["sample_rate"]


def _window_samples(config: Config) -> int:
    return window_samples(config.model["audio_size"][1], config.spectrogram["hop"])


def windows_of(clip: Path, scene: Scene, config: Config, *, every: float | None) -> Iterator[Windows]:
    """The windows of ``clip``, as ``look`` found it, a few at a time: one every so many seconds from its start and one
    at its end, or for None the one in its middle. They are as long as the model's; sound that is shorter is reflected.
    MediaError where there is nothing to hear in the whole of it."""
    rate, count, size = config.spectrogram["sample_rate"], _window_samples(config), config.model["image_size"]
    sound = read_waveform(scene.sound, sample_rate=rate)
    if reason := refusal(sound, rate):
        raise UnusableMedia(f"{scene.sound} has {reason}", reason=reason, hint="choose a clip with sound")
    middle = max(0, len(sound) - count) // 2
    starts = [middle] if every is None else window_starts(len(sound), count, every * rate)
    still = centre_view(scene.frame, size) if is_picture(clip) else None
    if (last := (starts[-1] + min(starts[-1] + count, len(sound))) / 2 / rate) > scene.end:
        warn(
            f"{clip} ends at {scene.end:.2f} s: windows of {scene.sound} up to {last:.2f} s see its last frame"
        )
    with progress_bar(clip.name, total=len(starts), unit="windows", brief=True) as bar:
        for first in range(0, len(starts), WINDOWS_AT_ONCE):
            begin = np.array(starts[first : first + WINDOWS_AT_ONCE])
            end = np.minimum(begin + count, len(sound))
            yield Windows(
                times=np.stack([begin, end], axis=1) / rate,
                frames=np.stack(
                    [
                        centre_view(read_frame(clip, min(time, scene.end))[0], size)
                        if still is None
                        else still
                        for time in (begin + end) / 2 / rate
                    ]
                ),
                waveforms=np.stack([fit_window(sound[a:b], count) for a, b in zip(begin, end, strict=True)]),
            )
            bar.advance(len(begin))


def window_starts(length: int, count: int, every: float, *, whole: bool = False) -> list[int]:
    """Where windows of ``count`` samples begin: one ``every`` so many of ``length`` samples, the last at the end, up to
    a quarter of a step later than its turn. A length that is less than an eighth longer than one has one, in its
    middle, unless ``whole`` says that no sample may be left out."""
    room = max(0, length - count)
    if room < (1 if whole else count / 8):
        return [room // 2]
    return [0, *(round(start) for start in np.arange(every, room - every / 4, every)), room]


def centre_view(frame: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The square in the middle of a frame (H, W, 3) that evaluation looks at, resized: uint8 (3, rows, columns)."""
    left, top, width, height = centre_crop(frame.shape[1], frame.shape[0])
    rows, columns = size
    how = cv2.INTER_AREA if height >= rows and width >= columns else cv2.INTER_LINEAR
    resized = cv2.resize(frame[top : top + height, left : left + width], (columns, rows), interpolation=how)
    return resized.transpose(2, 0, 1)
