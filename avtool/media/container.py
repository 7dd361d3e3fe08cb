"""A clip's file, opened: its streams, its clock, the frames in them, and what its header says; or why it cannot be."""

from __future__ import annotations

import math
import struct
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from avtool.errors import MediaError
from avtool.files import ARCHIVE, WAYS_OUT, name_of_other_content
from avtool.media.clock import AHEAD, Clock, Edits, correction, edit_corrections
from avtool.media.colour import Looks

NO_SOUND = "no sound track"
NO_VIDEO = "no video"
UNDECODABLE = "undecodable"
SILENT = "digital silence"
TOO_SHORT = "less than 0.2 s of sound"
HDR = "hdr"
PLAYLISTS = {"concat", "dash", "hls", "imf", "vobsub"}
"""FFmpeg's formats that lead to other files."""
OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - PLAYLISTS)),
    "pattern_type": "none",  # %d in the name of a picture does not mean a row of them
    "fflags": "-genpts",  # PyAV asks FFmpeg to invent the times that a container does not have
}
"""What is opened is the file named and nothing else: a playlist must not make us fetch from elsewhere."""
MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
INDEXED = {MOV, MATROSKA, "wav", "flac"}
"""Formats in which stamps are the same after a seek; the others are read from the start."""
MEASURED = {MOV, "wav", "flac"}
"""Formats whose header has the length from what is in the file, if it is whole."""
LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Tags that are not UTF-8 must not stop a clip from being read. From PyAV 19 on they never do; the option is gone."""
PREROLL = 1.0  # seconds decoded before a start that is sought to, for the codecs to settle
TOGETHER, TOGETHER_BYTES = 64, 1 << 20  # packets that are read before they are decoded
REORDERED = 17  # packets after which one is shown at the latest: codecs hold back 16 frames at most
FARTHER = 10.0  # seconds that a second seek goes back by: as long as key frames are apart at most, as a rule


class UnusableMedia(MediaError):
    """A file that is there but cannot be used; ``reason`` is one of NO_SOUND, NO_VIDEO, UNDECODABLE, HDR."""

    def __init__(self, message: str, *, reason: str = UNDECODABLE, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


def check_file(path: Path) -> None:
    """Raise MediaError where ``path`` is missing, no regular file, empty, an archive, text or a Git LFS pointer.

    Nothing but a regular file is opened: a pipe would be waited on for ever.
    """
    if not path.exists():
        hint = "check the path; a name that begins with - is written ./-name"
        raise MediaError(f"{path} does not exist", hint=hint)
    if path.is_dir():
        raise MediaError(f"{path} is a folder, a file is needed", hint="name a clip inside it")
    if not path.is_file():
        kind = "a pipe" if path.is_fifo() else "a socket" if path.is_socket() else "a device"
        hint = "write what comes out of it to a file, and name that"
        raise UnusableMedia(f"{path} is {kind}, a file is needed", hint=hint)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except PermissionError as error:
        raise UnusableMedia(f"no permission to read {path}") from error
    if not head:
        raise UnusableMedia(f"{path} is empty", hint="download or copy it again")
    if found := name_of_other_content(head):
        raise UnusableMedia(f"{path} is {found}, not the file itself", hint=WAYS_OUT[found])
    if ARCHIVE.match(head):
        hint = "unpack it; a table for avtool prepare may name a clip in it, as x.tar/clips/a.mp4"
        raise UnusableMedia(f"{path} is an archive, not a clip", hint=hint)
    if not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        hint = "name the clip itself; a csv of clips goes through avtool prepare manifest"
        raise UnusableMedia(f"{path} is a text file, not a clip", hint=hint)


QUICK = {"probesize": "32", "analyzeduration": "0"}
"""Options to open a file whose codecs are known."""


class MediaFile:
    """A clip's or a sound's file, opened once: its first picture and sound streams, its clock, and where it is read.

    ``header``: seconds that its header gives, if any; ``uncertain``: whether a time that was read had to be guessed.

    ``threads`` decode it (0: as many as FFmpeg sees fit). MediaError where it is missing or cannot be opened.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.path, self.threads = path, threads
        self.scalers: defaultdict[int | None, VideoReformatter] = defaultdict(VideoReformatter)
        self.seconds: float | None = None
        self.edits: dict[str, Edits] | None = None
        self.uncertain = False
        self._open()

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self.container.close()

    def _open(self) -> None:
        with self.reading():
            self.container = _opened(self.path)
        cover = Disposition.attached_pic
        self.videos = [stream for stream in self.container.streams.video if not stream.disposition & cover]
        self.sounds = list(self.container.streams.audio)
        self.video = next((stream for stream in self.videos if stream.codec_context is not None), None)
        self.sound = next((stream for stream in self.sounds if stream.codec_context is not None), None)
        for stream in (self.video, self.sound):
            if stream is not None:
                stream.codec_context.thread_type = "AUTO"
                stream.codec_context.thread_count = self.threads
        if self.video is not None:
            self.looks = Looks(self.video)
        # only these can hold NaN: lossy codecs give floats too, but decode none
        self.raw_floats = self.sound is not None and self.sound.codec_context.name.startswith("pcm_f")
        self.origin = (self.container.start_time or 0) / av.time_base
        self.format = self.container.format.name
        self.header = self.container.duration / av.time_base if self.container.duration else None
        self.damaged, self.moved = 0, False
        self.until = math.inf  # seconds up to which damage counts: more is read than is asked for
        self.run: Any = None  # frames that are being gone through, see ``find_frame``
        if self.edits is None:
            self.edits = self._edits()

    def _edits(self) -> dict[str, Edits]:
        """See ``edit_corrections``: none where all pictures of an mp4 are shown."""
        found: dict[str, Edits] = {}
        if self.format != MOV or self.video is None:
            return found
        shown = {entry.pos: entry.timestamp for entry in self.video.index_entries if not entry.is_discard}
        if len(shown) == len(self.video.index_entries):
            return found
        try:
            found["video"] = edit_corrections(self.path, self.video.id, self._moved(self.video, shown))
            if self.sound is not None and len(found["video"]) > 1:  # FFmpeg cuts a first edit of sound
                found["audio"] = edit_corrections(self.path, self.sound.id, self._moved(self.sound))
        except (av.FFmpegError, struct.error, IndexError, StopIteration, ValueError):
            self.uncertain = True
        return found

    def _moved(self, stream: Stream, shown: dict[int, int] | None = None) -> list[tuple[float, float]]:
        """The times of a stream's packets in an mp4, and those without its edits; of a single one where all that are
        ``shown``, by place and time of decoding, are moved alike."""
        tick = float(stream.time_base or 0)
        if shown:
            with self._without_edits() as container:
                plain = {
                    entry.pos: entry.timestamp for entry in container.streams[stream.index].index_entries
                }
            moved = {time - plain[place] for place, time in shown.items() if place in plain}
            if len(moved) == 1:
                return [(first := min(shown.values()) * tick, first - moved.pop() * tick)]
        times = []
        for opened in (_opened(self.path, **QUICK), self._without_edits()):
            with opened as container:
                packets = (
                    one for one in container.demux(container.streams[stream.index]) if not one.is_discard
                )
                times.append({one.pos: stamp * tick for one in packets if (stamp := one.pts) is not None})
        return [(time, times[1][place]) for place, time in times[0].items() if place in times[1]]

    def _without_edits(self) -> InputContainer:
        return _opened(self.path, **QUICK, advanced_editlist="0")

    def reading(self) -> AbstractContextManager[None]:
        """What FFmpeg fails on inside is the file's fault: MediaError."""
        return _blamed(self.path, "cannot be decoded", hint="it may be cut short or damaged")

    def positions(self, time: float) -> Iterator[bool]:
        """Places to read from what begins at ``time`` seconds, the next one for where it had gone by; True for the very
        start of the file, from which all is there.

        The first is the last key frame at or before that time, or somewhere behind it, for a seek lands late in streams
        without an index, as MPEG-TS is. For the others the file is opened anew: one that is wound back may not find its
        first key frame again.
        """
        # FFmpeg gives a palette with the first packet only
        sought = self.format in INDEXED and not (self.video and self.video.pix_fmt == "pal8")
        starts = [start for start in (time, time - FARTHER) if start > 0 and sought]
        for number, start in enumerate([*(starts if not self.uncertain else ()), 0.0]):
            if self.moved and (number or start == 0):
                self.container.close()
                self._open()
            if start > 0:
                with suppress(av.FFmpegError):  # the time stamps tell where it is now
                    self.container.seek(math.floor((start + self.origin) * av.time_base), backward=True)
            self.moved, self.run, self.damaged = True, None, 0
            yield start == 0

    def need(self, *, video: bool = False, sound: bool = False, hint: str = "") -> None:
        """MediaError with ``hint`` where it lacks what is needed."""
        for needed, stream, streams, reason in (
            (video, self.video, self.videos, NO_VIDEO),
            (sound, self.sound, self.sounds, NO_SOUND),
        ):
            if needed and stream is None:
                what = f"{reason} of a known codec" if streams else reason
                raise UnusableMedia(
                    f"{self.path} has {what}", reason=UNDECODABLE if streams else reason, hint=hint
                )

    def duration(self) -> float:
        """Seconds: from the header where it is to be trusted, else from the time stamps of all packets."""
        if self.seconds is None:
            streams = [one for one in (self.video, self.sound) if one is not None and one.duration]
            lengths = [float((one.duration or 0) * (one.time_base or 0)) for one in streams]
            odd = max(lengths, default=0.0) - min(lengths, default=0.0) > AHEAD or 0 < self.frame_rate() < 1
            trusted = self.header if self.format in MEASURED and not odd else None
            self.seconds = trusted or self.measured()
        return self.seconds

    def measured(self) -> float:
        """Seconds by the time stamps of all packets: the latest of each stream, for earlier ones may have strayed."""
        clock, ends = self._clock(), defaultdict[int, deque[Any]](lambda: deque(maxlen=REORDERED))
        with _blamed(self.path, "cannot be read", hint="it may be damaged"), _opened(self.path) as container:
            for packet in self._packets(container):
                clock.follow(packet)
                if (stamp := packet.dts if packet.pts is None else packet.pts) is not None:
                    last = float(stamp * packet.time_base), float((packet.duration or 0) * packet.time_base)
                    latest = ends[packet.stream_index]
                    if latest and latest[-1][0] - last[0] > AHEAD:
                        latest.clear()  # only the first one can be: others are brought onto the clock
                    latest.append(last)
        self.uncertain |= clock.uncertain
        return max((sum(max(latest)) for latest in ends.values()), default=self.origin) - self.origin

    def frame_rate(self) -> float:
        """Frames a second, 0 where it is unknown or there is no video."""
        return 0.0 if self.video is None else float(self.video.average_rate or self.video.guessed_rate or 0)

    def _clock(self) -> Clock:
        return Clock(self.video, decode_times=self.format == "avi", edits=(self.edits or {}).get("video", ()))

    def _packets(self, container: InputContainer) -> Iterator[av.Packet]:
        """Those of its picture and sound. Streams that begin in mid-file are passed over: PyAV does not know them."""
        streams = [container.streams[one.index] for one in (self.video, self.sound) if one is not None]
        while True:
            try:
                yield from container.demux(*streams)
                return
            except IndexError:
                self.uncertain = True

    def _followed(self, clock: Clock) -> Iterator[list[av.Packet]]:
        """The packets, after ``clock`` has followed them: some at a time, sorted by stream, which is faster."""
        packets, size = list[av.Packet](), 0
        try:
            for packet in self._packets(self.container):
                packets.append(packet)
                size += packet.size
                if len(packets) == TOGETHER or size > TOGETHER_BYTES:
                    yield self._sorted(packets, clock)
                    packets, size = [], 0
        except av.FFmpegError:
            self.damaged += 1
        yield self._sorted(packets, clock)

    def _sorted(self, packets: list[av.Packet], clock: Clock) -> list[av.Packet]:
        clock.follow_all(packets)
        self.uncertain |= clock.uncertain
        return sorted(packets, key=attrgetter("stream.index"))

    def decoded(self, *streams: Stream | None) -> Iterator[tuple[Any, Any]]:
        """The frames of ``streams``, which it must have (``need``), in each one's order in the file, and the seconds at
        which each is presented, None for a block of sound that does not say; damage is counted and passed over."""
        clock = self._clock()
        for packets in self._followed(clock):
            for packet in packets:
                if packet.stream not in streams:
                    continue
                frames = self._frames(packet)
                if packet.stream is self.video:
                    yield from self._placed(clock, frames)
                    continue
                if self.raw_floats:
                    self._check_finite(frames)
                for frame in frames:
                    yield frame, self._heard(frame)
        for stream in streams:  # the end, or where reading broke off: take what the decoders still hold
            if isinstance(stream, AudioStream):
                for frame in self._frames(stream):
                    yield frame, self._heard(frame)
            elif isinstance(stream, VideoStream):
                yield from self._placed(clock, [*self._frames(stream), None])
        self.uncertain |= clock.uncertain

    def _heard(self, frame: av.AudioFrame) -> float | None:
        """Seconds at which a block of sound is presented."""
        time = frame.time
        if time is None:
            return None
        return time - self.origin + (correction(self.edits.get("audio", ()), time) if self.edits else 0.0)

    def _placed(self, clock: Clock, frames: list) -> Iterator[tuple[Any, Any]]:
        for frame in frames:
            if frame is not None:
                self.looks.note(frame)
            placed = clock.place(frame)
            self.uncertain |= clock.uncertain
            if placed is not None:
                yield placed[0], placed[1] - self.origin

    def _check_finite(self, frames: list) -> None:
        if not all(np.isfinite(frame.to_ndarray()).all() for frame in frames):
            what = f"{self.path} has samples of sound that are no numbers (NaN, or infinite)"
            raise UnusableMedia(what, hint="write the sound anew without them")

    def _frames(self, source: av.Packet | Any) -> list:
        """What decoding a packet, or the rest of a stream, gives."""
        try:
            frames = source.decode()
        except av.EOFError:  # a decoder that is asked again after its end
            return []
        except av.FFmpegError:
            frames, lost = [], True
        else:  # FFmpeg drops sound of fragments of one packet; edits drop some where the header counts packets
            lost = not frames and getattr(source, "is_discard", False) and source.stream is self.sound
            lost = lost and not source.stream.frames
        if lost:
            stamp = source.dts if isinstance(source, av.Packet) else None
            self.damaged += stamp is None or stamp * float(source.time_base) - self.origin <= self.until
        return frames


@contextmanager
def _blamed(path: Path, problem: str, *, hint: str) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise UnusableMedia(f"{path} {problem}: {error.strerror or error}", hint=hint) from error


def _opened(path: Path, **options: str) -> InputContainer:
    check_file(path)
    return av.open(f"file:{path}", options=OPEN_OPTIONS | options, **LENIENT)


def describe_container(path: Path) -> dict[str, Any]:
    """What a file's header says: ``container``, ``duration`` (s), ``bit_rate`` and ``streams``, None where it does
    not say. Raises MediaError where it is no clip."""
    hint = "it may be damaged, or of a kind that FFmpeg does not know"
    with _blamed(path, "is no clip", hint=hint), _opened(path) as container:
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
        facts |= {"pixels": stream.pix_fmt, **_look(container, stream)}
    if isinstance(stream, AudioStream) and codec is not None:
        facts |= {"rate": stream.sample_rate, "channels": stream.channels, "layout": stream.layout.name}
    return facts


def _look(container: InputContainer, stream: VideoStream) -> dict[str, Any]:
    """How its first frame is to be shown: ``rotation`` in degrees counter-clockwise, then ``mirrored`` left-right, each
    pixel ``pixel_aspect`` times as wide as high, ``colour``. None of it where no frame decodes."""
    looks = Looks(stream)
    with suppress(av.FFmpegError):
        for frame in container.decode(stream):
            looks.note(frame)
            look = looks.of(frame)
            rotation = (270, 90)[look.flipped] if look.turned else (0, 180)[look.flipped]
            mirrored = look.turned ^ look.mirrored ^ look.flipped
            shape = {"rotation": rotation, "mirrored": mirrored, "pixel_aspect": float(look.aspect)}
            return shape | {"colour": look.facts()}
    return dict.fromkeys(("rotation", "mirrored", "pixel_aspect", "colour"))
