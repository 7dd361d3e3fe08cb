"""A clip's file, opened: its streams, its clock, the frames in them, and what its header says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from avtool.media.unusable import NO_SOUND, NO_VIDEO, UNDECODABLE, UnusableMedia, check_file

PLAYLISTS = {"concat", "dash", "hls", "imf", "vobsub"}
"""FFmpeg's formats that lead to other files."""
OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - PLAYLISTS)),
    "pattern_type": "none",  # %d in the name of a picture does not mean a row of them
}
"""What is opened is the file named and nothing else: a playlist must not make us fetch from elsewhere."""
LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Tags that are not UTF-8 must not stop a clip from being read. From PyAV 19 on they never do; the option is gone."""
CLOCK = 1e-3  # seconds: time stamps of some containers are rounded to milliseconds
PREROLL = 1.0  # seconds decoded before a start that is sought to, for the codecs to settle
FARTHER = 10.0  # seconds that a second seek goes back by: as long as key frames are apart at most, as a rule


@contextmanager
def open_clip(path: Path, threads: int = 0, start: float = 0.0) -> Iterator[Clip]:
    """A clip to read from, decoded by ``threads`` threads (0: as many as FFmpeg sees fit), at the last key frame at or
    before ``start`` seconds, or somewhere behind it (see ``starts``). Raises MediaError where it is missing, and
    whenever FFmpeg fails on it."""
    with _opened(path, "cannot be decoded", hint="it may be cut short or damaged") as container:
        clip = Clip(path, container, threads)
        if start > 0:
            with suppress(av.FFmpegError):  # the time stamps tell where it is now
                container.seek(math.floor((start + clip.origin) * av.time_base), backward=True)
        yield clip


def starts(time: float) -> list[float]:
    """Where to open a clip that is wanted from ``time`` on: there, farther back, and at its very start, the next one
    where what was wanted had gone by. A seek lands late in streams without an index, as MPEG-TS is, and a clip that is
    wound back may not find its first key frame again: it is opened anew."""
    return [start for start in (time, time - FARTHER) if start > 0] + [0.0]


@contextmanager
def _opened(path: Path, problem: str, *, hint: str) -> Iterator[InputContainer]:
    check_file(path)
    try:
        with av.open(f"file:{path}", options=OPEN_OPTIONS, **LENIENT) as container:
            yield container
    except av.FFmpegError as error:
        raise UnusableMedia(
            f"{path} {problem}: {error.strerror or error}", reason=UNDECODABLE, hint=hint
        ) from error


class Clip:
    """An open container: its first picture and sound streams and its clock."""

    def __init__(self, path: Path, container: InputContainer, threads: int) -> None:
        self.path, self.container = path, container
        cover = Disposition.attached_pic
        self.videos = [stream for stream in container.streams.video if not stream.disposition & cover]
        self.sounds = list(container.streams.audio)
        self.video = next(filter(_has_codec, self.videos), None)
        self.sound = next(filter(_has_codec, self.sounds), None)
        for stream in (self.video, self.sound):
            if stream is not None:
                stream.codec_context.thread_type = "AUTO"
                stream.codec_context.thread_count = threads
        # only these can hold NaN: lossy codecs give floats too, but decode none
        self.raw_floats = self.sound is not None and self.sound.codec_context.name.startswith("pcm_f")
        self.damaged = 0
        self.origin = (container.start_time or 0) / av.time_base

    def need(self, *, video: bool = False, sound: bool = False) -> None:
        for needed, stream, streams, reason in (
            (video, self.video, self.videos, NO_VIDEO),
            (sound, self.sound, self.sounds, NO_SOUND),
        ):
            if needed and stream is None and streams:
                raise UnusableMedia(f"{self.path} has {reason} of a known codec", reason=UNDECODABLE)
            if needed and stream is None:
                raise UnusableMedia(f"{self.path} has {reason}", reason=reason)

    def duration(self) -> float:
        """Seconds, from the header; where it does not say, from the time stamps of all packets."""
        if self.container.duration:
            return self.container.duration / av.time_base
        with _opened(self.path, "cannot be read", hint="it may be damaged") as container:
            ends = [
                float(((packet.pts or 0) + (packet.duration or 0)) * packet.time_base)
                for packet in container.demux()
                if packet.pts is not None
            ]
        return max(ends, default=self.origin) - self.origin

    def time_of(self, frame: av.VideoFrame | av.AudioFrame, default: float) -> float:
        return default if frame.time is None else frame.time - self.origin

    def decoded_video(self) -> Iterator[av.VideoFrame]:
        """The frames of its picture, which it must have (``need``)."""
        return cast(Iterator[av.VideoFrame], self.decoded(self.video))

    def decoded_sound(self) -> Iterator[av.AudioFrame]:
        """The blocks of its sound, which it must have (``need``)."""
        return cast(Iterator[av.AudioFrame], self.decoded(self.sound))

    def decoded(self, *streams: MediaStream | None) -> Iterator[av.VideoFrame | av.AudioFrame]:
        """The frames of ``streams`` in the file's order; what is damaged is counted and passed over."""
        packets = self.container.demux(*streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.damaged += 1
                break
            frames = self._frames(packet.decode)
            if self.raw_floats and packet.stream is self.sound:
                self._check_finite(frames)
            yield from frames
        for stream in streams:  # reading broke off before the file's end: take what the decoders still hold
            if stream is not None:
                yield from self._frames(stream.decode)

    def _check_finite(self, frames: list[av.AudioFrame]) -> None:
        if not all(np.isfinite(frame.to_ndarray()).all() for frame in frames):
            raise UnusableMedia(
                f"{self.path} has samples of sound that are no numbers (NaN, or infinite)",
                reason=UNDECODABLE,
                hint="write the sound anew without them",
            )

    def _frames(self, decode: Callable[[], list]) -> list:
        try:
            return decode()
        except av.EOFError:  # a decoder that is asked again after its end
            return []
        except av.FFmpegError:
            self.damaged += 1
            return []


MediaStream = VideoStream | AudioStream


def _has_codec(stream: Stream) -> bool:
    return stream.codec_context is not None


def describe_container(path: Path) -> dict[str, Any]:
    """What a file's header says: ``container``, ``duration`` (s), ``bit_rate`` and ``streams``, None where it does
    not say. Raises MediaError where it is no clip."""
    hint = "it may be damaged, or of a kind that FFmpeg does not know"
    with _opened(path, "is no clip", hint=hint) as container:
        return {
            "container": container.format.long_name,
            "duration": container.duration / av.time_base if container.duration else None,
            "bit_rate": container.bit_rate or None,
            "streams": [_stream(container, stream) for stream in container.streams],
        }


def _stream(container: InputContainer, stream: Stream) -> dict[str, Any]:
    codec = stream.codec_context
    facts = {
        "type": stream.type,
        "codec": codec.name if codec is not None else "unknown",
        "duration": float(stream.duration * (stream.time_base or 0)) if stream.duration else None,
        "bit_rate": getattr(stream, "bit_rate", None) or None,
    }
    if isinstance(stream, VideoStream) and codec is not None:
        rate = stream.average_rate or stream.guessed_rate
        facts |= {"width": stream.width, "height": stream.height, "fps": float(rate) if rate else None}
        facts |= {"pixels": stream.pix_fmt, "rotation": _rotation(container, stream)}
    if isinstance(stream, AudioStream) and codec is not None:
        facts |= {"rate": stream.sample_rate, "channels": stream.channels, "layout": stream.layout.name}
    return facts


def _rotation(container: InputContainer, stream: VideoStream) -> int | None:
    """Degrees counter-clockwise that bring the picture upright, from the first frame; None where none decodes."""
    try:
        return next((frame.rotation % 360 for frame in container.decode(stream)), None)
    except av.FFmpegError:
        return None
