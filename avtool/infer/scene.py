"""One's own clip as a model takes it: a frame, and the sound around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avtool.data.checks import SILENT, refusal
from avtool.errors import CheckpointError, MediaError, UsageError
from avtool.features import window_samples
from avtool.inputs import fit_window
from avtool.media import (
    NO_SOUND,
    NO_VIDEO,
    UnusableMedia,
    check_file,
    is_picture,
    probe,
    read_frame,
    read_image,
    read_waveform,
)
from avtool.model.config import Config
from avtool.progress import warn

LARGEST_INPUT = 1 << 26
"""Pixels of a frame, cells of a spectrogram, or samples (an hour): models are three orders of magnitude below."""

STALE = 1.0
"""Seconds after which it is said that a frame is not a new one: the picture may have ended before the sound."""


@dataclass(frozen=True)
class Scene:
    """What is seen, uint8 (H, W, 3), at ``time`` seconds, of a picture that ends at ``end`` seconds (a still one never
    does), and the file of what is heard, with its length in seconds.
    """

    frame: np.ndarray
    time: float
    sound: Path
    length: float
    end: float = math.inf


def look(clip: Path, audio: Path | None, at: float | None, *, way_out: str | None = None) -> Scene:
    """The frame, and where its sound is. MediaError or UsageError where the clip cannot be used; ``way_out`` is their
    hint where no sound or picture can be given to this clip."""
    check_file(clip)
    sound = None if audio is None else probe(audio)
    if sound is not None and not sound.has_sound:
        raise UnusableMedia(f"{audio} has no sound track", reason=NO_SOUND, hint="give another --audio")
    if is_picture(clip):
        if audio is None or sound is None:
            raise UsageError(
                f"{clip} is a picture and has no sound of its own",
                hint=way_out or "add --audio SOUND.wav",
            )
        if at is not None and not 0 <= at <= sound.duration:
            raise MediaError(
                f"{audio} is {sound.duration:.2f} s long: there is no sound at {at:g} s",
                hint=f"choose a time from 0 to {math.floor(100 * sound.duration) / 100:g}",
            )
        return Scene(read_image(clip), sound.duration / 2 if at is None else at, audio, sound.duration)
    info = probe(clip)
    if not info.has_video:
        raise UnusableMedia(
            f"{clip} has no video",
            reason=NO_VIDEO,
            hint=way_out or f"give a picture with it: IMAGE --audio {clip}",
        )
    if sound is None and not info.has_sound:
        raise UnusableMedia(
            f"{clip} has no sound track",
            reason=NO_SOUND,
            hint=way_out or "give its sound as a file of its own: --audio WAV",
        )
    time = info.duration / 2 if at is None else at
    frame, shown = read_frame(clip, time)
    if time - shown > STALE:
        warn(f"{clip} has no new frame after {shown:.2f} s: what is seen at {time:.2f} s is that one")
    return Scene(frame, time, audio or clip, (sound or info).duration, info.duration)


def check_size(config: Config, checkpoint: Path) -> None:
    """CheckpointError where config.json asks for an input that no model takes, before memory is asked for it."""
    samples = window_samples(config.model["audio_size"][1], config.spectrogram["hop"])
    sizes = {"image_size": config.model["image_size"], "audio_size": config.model["audio_size"]}
    largest = max(samples, *(math.prod(size) for size in sizes.values()))
    if largest > LARGEST_INPUT:
        asked = ", ".join(f"model.{key} = {list(size)}" for key, size in sizes.items())
        raise CheckpointError(
            f"{checkpoint / 'config.json'} asks for an input of {largest:,} numbers: {asked}, "
            f"spectrogram.hop = {config.spectrogram['hop']}",
            hint="take an undamaged copy, or correct that file",
        )


def listen(scene: Scene, config: Config) -> np.ndarray:
    """The model's window of sound around the scene's time, moved to lie inside the sound there is: int16 (N,). It
    warns where nothing is left of the window that the scene's time lies in.
    """
    rate = config.spectrogram["sample_rate"]
    count = window_samples(config.model["audio_size"][1], config.spectrogram["hop"])
    first = max(0, min(round(scene.time * rate) - count // 2, round(scene.length * rate) - count))
    waveform = read_waveform(scene.sound, sample_rate=rate, start=first / rate, end=(first + count) / rate)
    end = first + len(waveform)
    if len(waveform) < count and first > 0:  # the sound ends before the picture: take the last of it
        whole = read_waveform(scene.sound, sample_rate=rate)
        end, waveform = len(whole), whole[-count:]
    reason = refusal(waveform, rate)
    if reason is None:
        if end < scene.time * rate - count / 2:
            warn(
                f"{scene.sound} has sound up to {end / rate:.1f} s: the frame at {scene.time:.1f} s is judged by "
                f"the last of it (choose another time with --at)"
            )
        return fit_window(waveform, count)
    what = f"{len(waveform) / rate:.1f} s of {reason}" if reason == SILENT else reason
    raise UnusableMedia(
        f"{scene.sound} has {what} around {scene.time:.2f} s",
        reason=reason,
        hint="choose another time with --at, or give a sound with --audio WAV",
    )
