"""What a clip is, and single frames of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from avtool.errors import MediaError
from avtool.media.container import CLOCK, Clip, open_clip, starts
from avtool.media.pictures import quarter_turns, to_picture
from avtool.media.unusable import UNDECODABLE, UnusableMedia


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is: ``duration`` in seconds as its header says, sizes upright, zeros for a stream it lacks."""

    duration: float
    width: int
    height: int
    fps: float
    sound_rate: int
    channels: int
    has_video: bool
    has_sound: bool


def probe(path: Path) -> ClipInfo:
    """What a clip or sound file is, from its header and first frame. Raises MediaError where it is unusable."""
    with open_clip(path) as clip:
        duration, video, sound = clip.duration(), clip.video, clip.sound
        width = height = 0
        fps = 0.0
        if video is not None:
            frame = next(clip.decoded_video(), None)
            if frame is None:
                raise UnusableMedia(f"{path}: no frame of its video can be decoded", reason=UNDECODABLE)
            width, height = frame.width, frame.height
            if quarter_turns(frame) % 2:
                width, height = height, width
            fps = float(video.average_rate or video.guessed_rate or 0)
        return ClipInfo(
            duration=duration,
            width=width,
            height=height,
            fps=fps,
            sound_rate=sound.sample_rate if sound is not None else 0,
            channels=sound.channels if sound is not None else 0,
            has_video=video is not None,
            has_sound=sound is not None,
        )


def read_frame(path: Path, at: float | None = None) -> tuple[np.ndarray, float]:
    """The frame uint8 (H, W, 3) RGB shown ``at`` seconds (None: the clip's middle) and the time it appears
    at.

    The frame shown at a time is the last one that appears at or before it. Raises MediaError where the clip
    has no video, cannot be decoded or is shorter than ``at``.
    """
    with open_clip(path) as clip:
        clip.need(video=True)
        length = clip.duration()
    time = length / 2 if at is None else at
    if not 0 <= time <= length + CLOCK:
        raise MediaError(
            f"{path} is {length:.2f} s long: there is no frame at {time:g} s",
            hint=f"choose a time from 0 to {math.floor(100 * length) / 100:g}",
        )
    for start in starts(time):
        with open_clip(path, start=start) as clip:
            found = _frame_at(clip, time, or_later=start == 0)
            if found is not None:
                return to_picture(found[0], VideoReformatter()), found[1]
    raise UnusableMedia(f"{path}: no frame of its video can be decoded", reason=UNDECODABLE)


def _frame_at(clip: Clip, time: float, *, or_later: bool) -> tuple[av.VideoFrame, float] | None:
    """The last frame that appears at or before ``time``, and when; None, or the next one, where there is none."""
    found: tuple[av.VideoFrame, float] | None = None
    for frame in clip.decoded_video():
        shown = clip.time_of(frame, default=0.0)
        if shown > time + CLOCK:
            return found or ((frame, shown) if or_later else None)
        found = frame, shown
    return found
