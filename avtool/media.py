"""Clips, frames, images and sound: the only user of PyAV (FFmpeg comes inside its wheel).

Frames are uint8 (H, W, 3) RGB, upright: rotation tags are applied. Sound read here is int16 (N,), mono, all
channels mixed down. Times are seconds from the clip's start, which is the start of its earliest stream: a
stream that starts later is placed where it belongs, so that picture and sound stay aligned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from avtool.errors import MediaError
from avtool.files import atomic_file

# What is wrong with a clip is said by an exception, not by FFmpeg's own lines on stderr.
av.logging.set_level(None)
# Pictures are small, and a thread pool does not survive the fork of a loader's workers.
cv2.setNumThreads(0)

NO_SOUND = "no sound track"
NO_VIDEO = "no video"
UNDECODABLE = "undecodable"

AUDIO_CHUNK = 1024
X264 = {"preset": "veryfast", "x264-params": "mbtree=0"}
"""Without x264's macroblock tree, which reads memory nothing was written to: same frames, same bytes."""
CLOCK = 1e-3  # seconds: time stamps of some containers are rounded to milliseconds
SOUND_GAP = 0.1  # seconds: a longer hole between the time stamps of two blocks of sound is kept as silence
CODEC_PADDING = 0.15  # seconds: codecs fill their last block with silence that is no part of the clip
PREROLL = 1.0  # seconds decoded before a start that is sought to, for the codecs to settle
OPEN_OPTIONS = {"protocol_whitelist": "file"}  # a playlist must not make us fetch from elsewhere
LFS_POINTER = b"version https://git-lfs"


class UnusableMedia(MediaError):
    """A file that is there but cannot be used; ``reason`` is one of NO_SOUND, NO_VIDEO, UNDECODABLE."""

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


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


@dataclass(frozen=True)
class DecodedClip:
    """What was found between ``start`` and ``end`` of a clip; times count from ``start``.

    ``frames``: K frames uint8 (H, W, 3) RGB of one size, upright, in order of time, none twice; ``times``
    (K,) when each appears; ``key`` counts the one shown at ``middle``, the key time. ``waveform``: int16 (N,)
    mono. ``size``: (width, height) before scaling. ``damaged``: packets that did not decode. Seconds that each
    stream goes on for as decoded, and the clip as its header says: ``picture_seconds``, ``sound_seconds``,
    ``header_seconds``.
    """

    frames: list[np.ndarray]
    times: list[float]
    waveform: np.ndarray
    duration: float
    size: tuple[int, int]
    key: int
    middle: float
    picture_seconds: float
    sound_seconds: float
    header_seconds: float
    damaged: int = 0


# Writing ---------------------------------------------------------------------------------------------


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    waveform: np.ndarray | None,
    sample_rate: int,
    crf: int = 18,
) -> None:
    """Write an H.264 (yuv420p) + AAC mp4; the same input gives the same bytes.

    ``frames``: uint8 (H, W, 3) RGB, all of one size, H and W even. ``waveform``: float32 (N,) or (N, C) in
    [-1, 1], or None for a clip without a sound track.
    """
    with atomic_file(path) as partial, av.open(f"file:{partial}", "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(30000)
        video = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **X264})
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        chunks = iter(())
        if waveform is not None:
            planes = np.atleast_2d(np.asarray(waveform, np.float32).T)
            coder = {"aac_coder": "fast"}  # half the time, and closer to the original here
            audio = container.add_stream("aac", rate=sample_rate, layout=_layout(len(planes)), options=coder)
            chunks = _audio_chunks(planes, sample_rate)
        sounded = 0.0
        for number, frame in enumerate(frames):
            if number == 0:
                video.height, video.width = _even_size(path, frame)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(video.encode(picture))
            while sounded <= number / rate and (chunk := next(chunks, None)) is not None:
                container.mux(audio.encode(chunk))
                sounded = (chunk.pts + chunk.samples) / sample_rate
        container.mux(video.encode(None))
        for chunk in chunks:
            container.mux(audio.encode(chunk))
        if waveform is not None:
            container.mux(audio.encode(None))


def _layout(channels: int) -> str:
    layouts = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
    if channels not in layouts:
        raise MediaError(f"a clip is written with 1, 2, 6 or 8 channels of sound, not {channels}")
    return layouts[channels]


def _even_size(path: Path, frame: np.ndarray) -> tuple[int, int]:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        raise MediaError(f"cannot write {path}: frames are {width} x {height}, H.264 needs even numbers")
    return height, width


def _audio_chunks(planes: np.ndarray, sample_rate: int) -> Iterable[av.AudioFrame]:
    layout = _layout(len(planes))
    for start in range(0, planes.shape[1], AUDIO_CHUNK):
        block = np.ascontiguousarray(planes[:, start : start + AUDIO_CHUNK])
        chunk = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        chunk.sample_rate, chunk.pts, chunk.time_base = sample_rate, start, Fraction(1, sample_rate)
        yield chunk


# Opening ---------------------------------------------------------------------------------------------


def check_file(path: Path) -> None:
    """Raise MediaError where ``path`` is missing, a folder, empty, a Git LFS pointer or text."""
    if not path.exists():
        raise MediaError(
            f"{path} does not exist", hint="check the path; a name that begins with - is written ./-name"
        )
    if path.is_dir():
        raise MediaError(f"{path} is a folder, a file is needed", hint="name a clip inside it")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except PermissionError as error:
        raise UnusableMedia(f"no permission to read {path}", reason=UNDECODABLE) from error
    if not head:
        raise UnusableMedia(f"{path} is empty", reason=UNDECODABLE, hint="download or copy it again")
    if head.startswith(LFS_POINTER):
        raise UnusableMedia(
            f"{path} is a Git LFS pointer, not the file itself", reason=UNDECODABLE, hint="run: git lfs pull"
        )
    if not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        raise UnusableMedia(
            f"{path} is a text file, not a clip",
            reason=UNDECODABLE,
            hint="name the clip itself; a csv of clips goes through avtool prepare manifest",
        )


@contextmanager
def _opened(path: Path, threads: int = 0) -> Iterator[_Clip]:
    check_file(path)
    try:
        with av.open(
            f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="ignore"
        ) as container:
            yield _Clip(path, container, threads)
    except av.FFmpegError as error:
        raise UnusableMedia(
            f"{path} cannot be decoded: {error.strerror or error}",
            reason=UNDECODABLE,
            hint="it may be cut short or damaged",
        ) from error


def _has_codec(stream: av.stream.Stream) -> bool:
    return stream.codec_context is not None


class _Clip:
    """An open container: its first picture and sound streams and its clock."""

    def __init__(self, path: Path, container: av.container.InputContainer, threads: int) -> None:
        self.path, self.container = path, container
        cover = av.stream.Disposition.attached_pic
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

    def decoded(self, *streams: av.stream.Stream) -> Iterator[av.VideoFrame | av.AudioFrame]:
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


# Reading ---------------------------------------------------------------------------------------------


def probe(path: Path) -> ClipInfo:
    """What a clip or sound file is, from its header and first frame. Raises MediaError where it is unusable."""
    with _opened(path) as clip:
        duration, video, sound = clip.duration(), clip.video, clip.sound
        width = height = 0
        fps = 0.0
        if video is not None:
            frame = next(clip.decoded(video), None)
            if frame is None:
                raise UnusableMedia(f"{path}: no frame of its video can be decoded", reason=UNDECODABLE)
            width, height = frame.width, frame.height
            if _quarter_turns(frame) % 2:
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
    with _opened(path) as clip:
        clip.need(video=True)
        length = clip.duration()
        time = length / 2 if at is None else at
        if not 0 <= time <= length + CLOCK:
            raise MediaError(
                f"{path} is {length:.2f} s long: there is no frame at {time:g} s",
                hint=f"choose a time from 0 to {length:.2f}",
            )
        frame, shown = _frame_at(clip, time)
        return _picture(frame, VideoReformatter()), shown


def _frame_at(clip: _Clip, time: float) -> tuple[av.VideoFrame, float]:
    for start in (time, 0.0):  # once more from the start where a seek lands behind the time or finds nothing
        clip.seek(start)
        found: tuple[av.VideoFrame, float] | None = None
        for frame in clip.decoded(clip.video):
            shown = clip.time_of(frame, default=0.0)
            if shown > time + CLOCK:
                if found is None and start == 0.0:
                    return frame, shown
                break
            found = frame, shown
        if found is not None:
            return found
    raise UnusableMedia(f"{clip.path}: no frame of its video can be decoded", reason=UNDECODABLE)


def read_waveform(
    path: Path, *, sample_rate: int = 16000, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """The sound of a clip or sound file as int16 (N,): all channels mixed to mono, resampled to
    ``sample_rate``.

    From ``start`` to ``end`` (None: the end), in seconds of the clip. Sound that begins later than the
    picture, and holes in it, are filled with silence.
    """
    with _opened(path) as clip:
        clip.need(sound=True)
        sound = _Sound(sample_rate, length=clip.duration())
        if start > PREROLL:
            clip.seek(start - PREROLL)
        for frame in clip.decoded(clip.sound):
            sound.add(frame, clip.time_of(frame, default=sound.due))
            if end is not None and sound.due > end:
                break
        return sound.waveform(start, end)


def decode_clip(
    path: Path,
    *,
    frame_rate: float,
    short_side: int,
    sample_rate: int,
    start: float = 0.0,
    end: float | None = None,
    key_time: float | None = None,
    threads: int = 0,
) -> DecodedClip:
    """Picture and sound of a clip between ``start`` and ``end`` in one pass over both streams.

    Frames are taken ``frame_rate`` times a second on a grid of which ``key_time`` (seconds from ``start``;
    None: the middle) is a point, each frame once, and scaled down, never up, to a short side of
    ``short_side`` pixels. Only the frames kept are held in memory. Raises MediaError where a stream is
    missing or no frame can be decoded.
    """
    with _opened(path, threads) as clip:
        clip.need(video=True, sound=True)
        length = clip.duration()
        stop = length if end is None else min(end, length)
        key = (stop - start) / 2 if key_time is None else key_time
        grid = _Grid(start, key, frame_rate, short_side)
        sound = _Sound(sample_rate, length=length)
        if start > PREROLL:
            clip.seek(start - PREROLL)
        for frame in clip.decoded(clip.video, clip.sound):
            if isinstance(frame, av.VideoFrame):
                grid.add(frame, clip.time_of(frame, default=grid.due), end)
            elif end is None or sound.due <= end:
                sound.add(frame, clip.time_of(frame, default=sound.due))
            if end is not None and grid.due > end and sound.due > end:
                break
        grid.finish(end)
        if not grid.frames:
            raise UnusableMedia(f"{path}: no frame of its video can be decoded", reason=UNDECODABLE)
        waveform = sound.waveform(start, end)
        last = math.inf if end is None else end
        return DecodedClip(
            frames=grid.frames,
            times=grid.times,
            waveform=waveform,
            duration=min(stop, max(grid.due + grid.interval, sound.due)) - start,
            size=grid.size,
            middle=key,
            key=int(np.argmin(np.abs(np.asarray(grid.times) - key))),
            picture_seconds=min(last, grid.due + grid.interval) - start,
            sound_seconds=min(last, sound.due) - start,
            header_seconds=stop - start,
            damaged=clip.damaged,
        )


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring the frame upright."""
    return round(frame.rotation / 90) % 4


def _picture(frame: av.VideoFrame, scaler: VideoReformatter, *, short_side: int | None = None) -> np.ndarray:
    """The frame in RGB, scaled and upright; ``scaler`` keeps what it set up for the frame before."""
    width, height = scaled_size(frame.width, frame.height, short_side)
    scaled = scaler.reformat(frame, width, height, format="rgb24", interpolation=Interpolation.AREA)
    return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), _quarter_turns(frame)))


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) scaled down, never up, to a short side of ``short_side`` (None: as it is)."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    scale = short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


class _Grid:
    """Keeps the frames shown at ``key`` + k / ``rate`` seconds for every whole k, each frame once.

    Times given and grid times are the clip's; the times kept count from ``start``.
    """

    def __init__(self, start: float, key: float, rate: float, short_side: int) -> None:
        self.start, self.key, self.rate, self.short_side = start, start + key, rate, short_side
        self.step = -math.floor(key * rate + CLOCK)
        self.scaler = VideoReformatter()
        self.frames: list[np.ndarray] = []
        self.times: list[float] = []
        self.size = (0, 0)
        self.due = start
        self.last: tuple[av.VideoFrame, float] | None = None
        self.kept: av.VideoFrame | None = None
        self.interval = 0.0

    def next_time(self) -> float:
        return self.key + self.step / self.rate

    def add(self, frame: av.VideoFrame, time: float, end: float | None) -> None:
        """The next frame, which appears at ``time``."""
        if self.last is not None:
            self.interval = max(0.0, time - self.last[1])
        while self.next_time() < time - CLOCK and (end is None or self.next_time() < end):
            self._keep(*(self.last or (frame, time)))
            self.step += 1
        self.last, self.due = (frame, time), time

    def finish(self, end: float | None) -> None:
        """The last frame lasts as long as the one before it, and to the key time however early it came."""
        if self.last is None:
            return
        stop = max(self.last[1] + self.interval, self.key + CLOCK)
        if end is not None:
            stop = min(stop, end)
        while self.next_time() < stop or not self.frames:
            self._keep(*self.last)
            self.step += 1

    def _keep(self, frame: av.VideoFrame, time: float) -> None:
        if frame is self.kept:
            return
        self.kept = frame
        picture = _picture(frame, self.scaler, short_side=self.short_side)
        if not self.frames:
            turned = _quarter_turns(frame) % 2
            self.size = (frame.height, frame.width) if turned else (frame.width, frame.height)
        elif picture.shape != self.frames[0].shape:  # the size changes within the clip
            picture = cv2.resize(picture, self.frames[0].shape[1::-1], interpolation=cv2.INTER_AREA)
        self.frames.append(picture)
        self.times.append(max(0.0, time - self.start))


class _Sound:
    """Gathers decoded sound as int16 mono at one rate, every stretch of it where its time stamps put it."""

    def __init__(self, rate: int, *, length: float) -> None:
        self.rate, self.length = rate, length
        self.due = 0.0  # seconds of the clip at which the next block is expected
        self.stretches: list[tuple[float, list[np.ndarray]]] = []
        self.form: tuple[int, str, str] | None = None
        self.fifo = av.AudioFifo()  # a second of sound is resampled at once
        self.resampler: av.AudioResampler | None = None

    def add(self, frame: av.AudioFrame, time: float) -> None:
        """The next block, which begins at ``time``."""
        form = (frame.sample_rate, frame.layout.name, frame.format.name)
        hole = self.due + (SOUND_GAP if self.stretches else 0.0) < time <= self.length + 1.0
        if form != self.form or hole:
            self._flush()
            self.form = form
            self.fifo = av.AudioFifo()
            self.resampler = av.AudioResampler(format="s16", layout="mono", rate=self.rate)
            if hole or not self.stretches:
                self.due = time if hole else min(time, self.due)
            self.stretches.append((self.due, []))
        frame.pts = None
        self.fifo.write(frame)
        if self.fifo.samples >= frame.sample_rate:
            self._resample(self.fifo.read())
        self.due += frame.samples / frame.sample_rate

    def _resample(self, frame: av.AudioFrame | None) -> None:
        blocks = self.stretches[-1][1]
        blocks.extend(
            out.to_ndarray().reshape(-1) for out in self.resampler.resample(frame) if out is not None
        )

    def _flush(self) -> None:
        if self.resampler is not None:
            if self.fifo.samples:
                self._resample(self.fifo.read())
            self._resample(None)
            self.resampler = None

    def waveform(self, start: float, end: float | None) -> np.ndarray:
        """What was heard from ``start`` to ``end``, holes filled with silence: int16 (N,)."""
        self._flush()
        stop = self.length if 0 < self.due - self.length < CODEC_PADDING else self.due
        if end is not None:
            stop = min(stop, end)
        whole = np.zeros(max(0, round((stop - start) * self.rate)), np.int16)
        for at, blocks in self.stretches:
            stretch = np.concatenate([np.zeros(0, np.int16), *blocks])
            begin = round((at - start) * self.rate)
            stretch = stretch[max(0, -begin) :]
            begin = max(0, begin)
            room = max(0, len(whole) - begin)
            whole[begin : begin + len(stretch)] = stretch[:room]
        return whole


def read_image(path: Path) -> np.ndarray:
    """A picture file as uint8 (H, W, 3) RGB: upright (EXIF), grey in three channels, alpha left out."""
    check_file(path)
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise UnusableMedia(f"{path} cannot be decoded as a picture", reason=UNDECODABLE)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def read_mask(path: Path) -> np.ndarray:
    """A mask file as uint8 (H, W): grey values, the indices of a palette, 0 and 255 of a two-valued picture, or the
    first channel of a colour one."""
    check_file(path)
    try:
        with Image.open(path) as picture:
            mode, mask = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnusableMedia(f"{path} is not a picture: {error}", reason=UNDECODABLE) from error
    if mode not in ("L", "P", "1", "RGB", "RGBA"):
        raise UnusableMedia(f"{path} is not an 8-bit mask but {mode}", reason=UNDECODABLE)
    if mask.dtype == bool:
        return mask.astype(np.uint8) * 255
    return mask if mask.ndim == 2 else mask[..., 0]
