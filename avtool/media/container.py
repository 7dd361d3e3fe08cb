"""A clip's file, opened: its streams, its clock, the frames in them, and what its header says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from avtool.media.unusable import NO_SOUND, NO_VIDEO, UNDECODABLE, UnusableMedia, check_file

PLAYLISTS = {"concat", "dash", "hls", "imf", "vobsub"}
"""FFmpeg's formats that lead to other files."""
OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - PLAYLISTS)),
    "pattern_type": "none",  # %d in the name of a picture does not mean a row of them
}
"""What is opened is the file named and nothing else: a playlist must not make us fetch from elsewhere."""
CLOCK = 1e-3  # seconds: time stamps of some containers are rounded to milliseconds
PREROLL = 1.0  # seconds decoded before a start that is sought to, for the codecs to settle


@contextmanager
def open_clip(path: Path, threads: int = 0) -> Iterator[Clip]:
    """A clip to read from, decoded by ``threads`` threads (0: as many as FFmpeg sees fit). Raises MediaError where it
    is missing, and whenever FFmpeg fails on it."""
    with _opened(path, "cannot be decoded", hint="it may be cut short or damaged") as container:
        yield Clip(path, container, threads)


@contextmanager
def _opened(path: Path, problem: str, *, hint: str) -> Iterator[InputContainer]:
    check_file(path)
    try:
        with av.open(f"file:{path}", options=OPEN_OPTIONS, metadata_errors="ignore") as container:
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
        for stream in filter(None, (self.video, self.sound)):
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
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
        ends = [
            float(((packet.pts or 0) + (packet.duration or 0)) * packet.time_base)
            for packet in self.container.demux()
            if packet.pts is not None
        ]
        self.seek(0.0)
        return max(ends, default=self.origin) - self.origin

    def seek(self, time: float) -> None:
        """To the last key frame at or before ``time``."""
        self.container.seek(math.floor((time + self.origin) * av.time_base), backward=True)

    def time_of(self, frame: av.VideoFrame | av.AudioFrame, default: float) -> float:
        return default if frame.time is None else frame.time - self.origin

    def decoded(self, *streams: Stream) -> Iterator[av.VideoFrame | av.AudioFrame]:
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
            yield from self._frames(packet.decode)
        for stream in streams:  # reading broke off before the file's end: take what the decoders still hold
            yield from self._frames(stream.decode)

    def _frames(self, decode: Callable[[], list]) -> list:
        try:
            return decode()
        except av.EOFError:  # a decoder that is asked again after its end
            return []
        except av.FFmpegError:
            self.damaged += 1
            return []


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
        "duration": float(stream.duration * stream.time_base) if stream.duration else None,
        "bit_rate": getattr(stream, "bit_rate", None) or None,
    }
    if codec is not None and stream.type == "video":
        rate = stream.average_rate or stream.guessed_rate
        facts |= {"width": codec.width, "height": codec.height, "fps": float(rate) if rate else None}
        facts |= {"pixels": codec.pix_fmt, "rotation": _rotation(container, stream)}
    if codec is not None and stream.type == "audio":
        facts |= {"rate": codec.sample_rate, "channels": codec.channels, "layout": codec.layout.name}
    return facts


def _rotation(container: InputContainer, stream: Stream) -> int | None:
    """Degrees counter-clockwise that bring the picture upright, from the first frame; None where none decodes."""
    try:
        return next((frame.rotation % 360 for frame in container.decode(stream)), None)
    except av.FFmpegError:
        return None
