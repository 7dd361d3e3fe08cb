"""The frames of a whole clip, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from avtool.media.container import CLOCK, open_clip
from avtool.media.pictures import to_picture
from avtool.media.unusable import UNDECODABLE, UnusableMedia


def shown_frames(path: Path, *, rate: float) -> Iterator[tuple[np.ndarray, float]]:
    """What a clip shows ``rate`` times a second from its first frame on, and when: uint8 (H, W, 3) RGB, upright.

    At each moment that is the last frame to appear at or before it; one that lasts longer comes several times. All are
    of the first one's size. One picture is held at a time. MediaError where nothing can be decoded.
    """
    with open_clip(path) as clip:
        clip.need(video=True)
        scaler, size = VideoReformatter(), None
        picture, begin, due, interval, count = None, 0.0, 0.0, 1 / rate, 0
        for frame in clip.decoded_video():
            time = clip.time_of(frame, default=due)
            if picture is None:
                begin = time
            while picture is not None and begin + count / rate < time - CLOCK:
                yield picture, begin + count / rate
                count += 1
            interval = time - due if picture is not None and time > due else interval
            picture, due = to_picture(frame, scaler), time
            size = size or picture.shape[1::-1]
            if picture.shape[1::-1] != size:
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        if picture is None:
            raise UnusableMedia(f"{path}: no frame of its video can be decoded", reason=UNDECODABLE)
        while begin + count / rate < due + interval - CLOCK:
            yield picture, begin + count / rate
            count += 1
