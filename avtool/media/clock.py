"""When each frame and each block of sound is presented: one clock for both, whatever a container makes of time."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import sub
from pathlib import Path

import av
from av.video.stream import VideoStream

CLOCK = 1e-3  # seconds: time stamps of some containers are rounded to milliseconds
BACK, AHEAD = 0.5, 10.0
"""Seconds by which stamps may go back, or be ahead of all other streams: more is a stray, or another recording."""
STEADY = 4
"""Where few frames have stamps, so many in a row that are off one way are right; FFmpeg gives some to another frame."""
RARE = 20
"""A gap of so many times the longest one before it is a stray stamp; a shorter one, a picture shown for long."""
Edits = Sequence[tuple[float, float]]
"""Seconds at which an edit of an mp4 begins, and what is to be added to the times that FFmpeg gives in it."""


@dataclass(slots=True)
class _Line:
    """The packets of one stream: the length of a ``tick``, the seconds of the ``first`` and of the ``last``, the
    ``longest`` gap, and the ``shift`` that brings them onto the clock."""

    tick: float
    first: float
    last: float
    longest: float = 0.0
    shift: float = 0.0
    alone: bool = True

    def go_on(self, packets: Sequence[av.Packet]) -> tuple[float, float] | None:
        """The ``longest`` gap and the ``last`` one's seconds after its next packets, if all of them come when due."""
        stamps = [stamp for packet in packets if (stamp := packet.dts) is not None]
        shown = [stamp for packet in packets if (stamp := packet.pts) is not None]
        if self.shift or not len(stamps) == len(shown) == len(packets):
            return None
        times = [self.last, *(stamp * self.tick for stamp in stamps)]
        gaps = list(map(sub, times[1:], times))
        apart = max(map(abs, map(sub, shown, stamps))) * self.tick
        if min(gaps) < 0 or max(gaps) > AHEAD or apart > AHEAD + RARE * self.longest:
            return None
        return max(self.longest, *gaps), times[-1]


class Clock:
    """Times in one reading of a file, in seconds as its container counts them: each packet is to be followed, in the
    file's order, and frames are placed in the order in which decoding gives them.

    ``decode_times``: the container has no times but those of decoding, and shows the first frame as it is decoded.
    ``uncertain``: whether a time had to be guessed.
    """

    def __init__(self, video: VideoStream | None, *, decode_times: bool = False, edits: Edits = ()) -> None:
        rate = 0 if video is None else video.average_rate or video.guessed_rate or 0
        self.video, self.tick = (-1, 0.0) if video is None else (video.index, float(video.time_base or 0))
        self.by_decoding, self.edits, self.interval = decode_times, edits, float(1 / rate) if rate else 0.04
        self.lines: dict[int, _Line] = {}
        self.shifts = [0.0]
        self.uncertain = False
        # seconds from the time of decoding that FFmpeg gives a frame to its own time; until that is known, the times of
        # packets by which it is found, and whether they are key frames
        self.lag: float | None = None
        self.starts: list[tuple[float, bool]] = []
        self.held: tuple[av.VideoFrame, float | None] | None = None
        self.last, self.gap, self.stamped = -math.inf, self.interval, False
        # whether frames come without stamps; how far the latest stamps were off; whether the last frame is at its own
        self.sparse, self.off, self.own = False, list[float](), False

    def follow_all(self, packets: Sequence[av.Packet]) -> None:
        """The next packets; quick where nothing is to be done, as in nearly all files."""
        found = {}
        for index in {packet.stream_index for packet in packets}:
            own = [packet for packet in packets if packet.stream_index == index]
            after = self.lines[index].go_on(own) if index in self.lines else None
            if after is None or (self.by_decoding and self.lag is None):
                break
            found[index] = after
        else:
            for index, after in found.items():
                self.lines[index].longest, self.lines[index].last = after
                self.lines[index].alone = False
            return
        for packet in packets:
            self.follow(packet)

    def follow(self, packet: av.Packet) -> None:
        """The next packet: its stamps are brought onto the clock where they restart, or stray far."""
        pts, dts = packet.pts, packet.dts
        stamp = pts if dts is None else dts
        if stamp is None or len(self.edits) > 1:  # several edits go back by themselves
            return
        line = self.lines.get(packet.stream_index)
        if line is None:
            tick = float(packet.time_base)
            line = self.lines[packet.stream_index] = _Line(tick, stamp * tick, stamp * tick)
        else:
            time = stamp * line.tick
            placed = time + line.shift
            if not line.last <= placed <= line.last + AHEAD and not self._fits(line, placed):
                self._shift(line, time, (packet.duration or 0) * line.tick)
            time += line.shift
            if time > line.last:
                line.longest, line.last = max(line.longest, time - line.last), time
            line.alone = False
        wild = (
            pts is not None and dts is not None and abs(pts - dts) * line.tick > AHEAD + RARE * line.longest
        )
        if wild or line.shift:
            self.uncertain = True
            ticks = round(line.shift / line.tick)
            packet.pts = None if pts is None or wild else pts + ticks
            packet.dts = None if dts is None else dts + ticks
        if self.by_decoding and self.lag is None and packet.stream_index == self.video:
            self.starts.append((stamp * line.tick + line.shift, packet.is_keyframe))

    def _fits(self, line: _Line, time: float) -> bool:
        """Whether the next packet of a stream may be of that time."""
        if time - line.last > AHEAD:
            latest = max(one.last for one in self.lines.values())
            return time <= AHEAD + max(latest, line.last + RARE * line.longest)
        return time >= line.last - max(BACK, 4 * line.longest)

    def _shift(self, line: _Line, time: float, seconds: float) -> None:
        """Find what brings ``time`` onto the clock: what did so for another stream, or before, or else what lets it go
        on from all that came before."""
        for shift in reversed(self.shifts):
            if self._fits(line, time + shift):
                line.shift = shift
                return
        if line.alone:  # it was the first one that strayed
            self.uncertain = True
            line.last = line.first = time
            return
        line.shift = max(line.last + seconds, *(one.last for one in self.lines.values())) - time
        self.shifts.append(line.shift)

    def place(self, frame: av.VideoFrame | None) -> tuple[av.VideoFrame, float] | None:
        """The frame before ``frame``, None for the end, and when it is shown: times go up, and a single one that does
        not is between its neighbours'. None where there was no frame before."""
        held, self.held = self.held, None if frame is None else (frame, self._time(frame))
        if held is None:
            return None
        (before, time), after, last = held, None if self.held is None else self.held[1], self.last
        if self.sparse and last > -math.inf:
            time, after = None if time is None else self._confirmed(time), None
        if time is None or after is None or not last < time < after:
            time = self._between(before, time, after)
        own = time == held[1]
        if own and self.own:  # a single long gap may end in a stray, and is no pace
            self.interval, self.gap = min(time - last, self.gap), time - last
        self.last, self.own = time, own
        return before, time + correction(self.edits, time) if self.edits else time

    def _time(self, frame: av.VideoFrame) -> float | None:
        if (stamp := frame.pts) is not None and self.lag is not None and not self.by_decoding:
            return stamp * self.tick
        pts, dts = (None if stamp is None else stamp * self.tick for stamp in (frame.pts, frame.dts))
        self.sparse |= self.stamped and pts is None and dts is None
        if self.sparse:
            return pts
        self.stamped |= pts is not None
        if self.lag is None and dts is not None:
            first = self.lines[self.video].first if self.video in self.lines else dts
            if self.by_decoding:
                self.lag = self._first_shown(dts) - dts
            elif pts is not None:
                self.lag = pts - dts
            elif not self.stamped:  # where frames are reordered, nothing says how late this is
                self.lag = 0.0
                self.uncertain |= dts > first + CLOCK
        if pts is not None and not self.by_decoding:
            return pts
        return None if dts is None or self.lag is None else dts + self.lag

    def _confirmed(self, time: float) -> float | None:
        """A stamp where few frames have one; None while it may be another frame's."""
        off = time - self.last - self.interval
        if abs(off) <= CLOCK:
            self.off.clear()
            return time
        if self.off and self.off[0] * off < 0:
            self.off.clear()
        self.off.append(off)
        if len(self.off) < STEADY:
            return None
        self.off.clear()
        self.uncertain = True
        return time

    def _first_shown(self, dts: float) -> float:
        """When the first frame, to which FFmpeg gives ``dts``, is shown: at the last key frame's own time of decoding.
        Packets that are not evenly apart there do not say how far FFmpeg's time is off."""
        before = [one for one in self.starts if one[0] <= dts + CLOCK]
        keys = [number for number, (_, key) in enumerate(before) if key]
        times = [time for time, _ in before[max(keys, default=0) :]]
        gaps = [after - time for time, after in pairwise(times)]
        self.uncertain |= not keys or max(gaps, default=0.0) > 2 * min(gaps, default=0.0)
        return times[0] if times else dts

    def _between(self, frame: av.VideoFrame, time: float | None, after: float | None) -> float:
        """The time of a frame that seems to be shown at ``time``, and the next one at ``after``."""
        last = self.last
        if last == -math.inf:
            if time is None or (after is not None and after <= time):
                time = 0.0 if after is None else after - self.interval
            return time
        due = last + self.interval
        if time is None or time <= last or (after is not None and after <= time):
            if after is not None and after > last:
                self.uncertain |= due >= after  # there is no room for it: another one's is wrong, too
                return due if due < after else (last + after) / 2
            if time is None or after is None:
                return due
            self.uncertain = True
            decoded = -math.inf if frame.dts is None or self.lag is None else frame.dts * self.tick + self.lag
            # stamps are in the order of decoding; else they are an earlier frame's
            self.by_decoding |= decoded > last
            return decoded if decoded > last else due
        others = [line.last for index, line in self.lines.items() if index != self.video]
        rare = time - last > max(2 * BACK, RARE * self.interval)
        if self.held is None and rare and others and time > max(others) + 2 * BACK:
            self.uncertain = True  # the last one, after the end of all others
            return due
        return time


def correction(edits: Edits, time: float) -> float:
    """What is to be added to ``time``."""
    if not edits:
        return 0.0
    return next((more for start, more in reversed(edits) if start <= time + CLOCK), 0.0)


def edit_corrections(path: Path, track: int, pictures: Iterable[tuple[float, float]]) -> Edits:
    """For each edit in the list of an mp4's ``track``, see ``Edits``.

    FFmpeg puts the first packet that begins inside an edit at its start, however much later it is due. ``pictures``:
    the times it gives all packets shown, and those with its ``advanced_editlist`` off, which are right as seen from the
    first edit. struct.error, IndexError or StopIteration where the header is not as ISO/IEC 14496-12 (8.6.6) has it;
    ValueError where frames do not fit the list.
    """
    moov = _moov(path)
    scale = _field(next(_boxes(moov, b"mvhd")))
    trak = next(one for one in _boxes(moov, b"trak") if _field(next(_boxes(one, b"tkhd"))) == track)
    media = _field(next(_boxes(next(_boxes(trak, b"mdia")), b"mdhd")))
    elst = next(_boxes(next(_boxes(trak, b"edts")), b"elst"))
    layout = ">Qqhh" if elst[0] else ">Iihh"
    rows = struct.iter_unpack(
        layout, elst[8 : 8 + struct.calcsize(layout) * struct.unpack_from(">I", elst, 4)[0]]
    )
    right, start = [], 0.0  # what is to be added to the times of the media
    for duration, begins, *_ in rows:
        if begins >= 0:
            right.append(start - begins / media)
        start += duration / scale
    groups: list[tuple[float, float]] = []  # the first time in an edit, and what FFmpeg added
    for time, plain in sorted(pictures):
        if not groups or abs(time - plain - groups[-1][1]) > CLOCK / 10:
            groups.append((time, time - plain))
    return [(at, more - right[0] - added) for (at, added), more in zip(groups, right, strict=True)]


def _moov(path: Path) -> bytes:
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            rest = struct.unpack(">Q", file.read(8))[0] - 16 if size == 1 else size - 8
            if kind == b"moov":
                return file.read(rest)
            file.seek(rest, 1)
    raise struct.error("no moov")


def _boxes(data: bytes, kind: bytes) -> Iterator[bytes]:
    """What the boxes of ``kind`` in ``data`` hold."""
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == kind:
            yield data[at + 8 : at + size]
        at += max(8, size)


def _field(box: bytes) -> int:
    """The time scale of a mvhd or mdhd, the number of a tkhd."""
    return struct.unpack_from(">I", box, 20 if box[0] else 12)[0]
