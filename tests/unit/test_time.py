"""One clock for picture and sound, in every form of clip: container, codec, and what went wrong with its stamps."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import soundfile

from avtool import media
from avtool.clip import Clip
from avtool.media.clock import Clock
from tests import timed
from tests.timed import CLICKS, RATE

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
MPEG = {"video": "mpeg2video", "audio": "mp2"}
PCM = {"audio": "pcm_s16le"}
VP8 = {"video": "libvpx", "b_frames": 0}


class Form(NamedTuple):
    """A clip: how its name ends, what ``timed.make`` is given, and what to expect of it beyond the usual."""

    ending: str
    how: dict[str, Any]
    within: float = 2e-3
    uncertain: bool | None = False  # None: it may be


def lost(*numbers: int, kind: str = "audio") -> dict[str, Any]:
    """Packets that do not arrive."""
    return {"change": lambda stream, number, packet: None if stream == kind and number in numbers else packet}


def moved(kind: str, by: Callable[[int], float]) -> dict[str, Any]:
    """Stamps that are later by ``by(number)`` seconds."""

    def change(stream: str, number: int, packet: av.Packet) -> av.Packet:
        if stream == kind:
            ticks = round(by(number) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packet

    return {"change": change}


def slower(share: float) -> dict[str, Any]:
    """The sound's stamps run slower than its samples."""

    def change(stream: str, _number: int, packet: av.Packet) -> av.Packet:
        if stream == "audio":
            packet.pts = packet.dts = round(packet.pts * (1 + share))
        return packet

    return {"change": change}


def one(number: int, by: float) -> Callable[[int], float]:
    return lambda n: by if n == number else 0.0


EVERY_DAY = {
    "mp4": Form("mp4", {}),
    "avi with B-frames": Form("avi", PCM),
    "fragmented mp4": Form("mp4", {"options": FRAGMENTED}),
    "mpeg-ps, h264": Form("mpg", {"audio": "mp2"}),
    "four packets lost one by one": Form("mp4", lost(70, 80, 90, 100)),
    "drift of 1 %": Form("mp4", slower(0.01), within=10e-3),
    "ts, late picture": Form("ts", {"picture_begins": 0.52}),
}
FORMS = {
    "mov": Form("mov", {}),
    "mov, pcm": Form("mov", PCM),
    "mp4, mpeg-4": Form("mp4", {"video": "mpeg4"}),
    "mp4, mp3": Form("mp4", {"audio": "libmp3lame"}),
    "mp4, 44.1 kHz": Form("mp4", {"rate": 44100}),
    "mp4, no B-frames": Form("mp4", {"b_frames": 0}),
    "3gp": Form("3gp", {}),
    "mkv": Form("mkv", {}),
    "mkv, mp3": Form("mkv", {"audio": "libmp3lame"}),
    "mkv, ac3": Form("mkv", {"audio": "ac3"}),
    "mkv, flac": Form("mkv", {"audio": "flac"}),
    "mkv, opus": Form("mkv", {"audio": "libopus"}),
    "webm": Form("webm", VP8 | {"audio": "libopus"}),
    "avi, mpeg-4": Form("avi", PCM | {"video": "mpeg4"}),
    "avi, mjpeg": Form("avi", PCM | {"video": "mjpeg", "b_frames": 0}),
    "avi, no B-frames": Form("avi", PCM | {"b_frames": 0}),
    "asf with B-frames": Form("asf", {}, uncertain=None),
    "asf, no B-frames": Form("asf", {"b_frames": 0}, uncertain=None),
    "flv": Form("flv", {"rate": 44100}),
    "flv, no B-frames": Form("flv", {"b_frames": 0, "rate": 44100}),
    "ts": Form("ts", {}),
    "ts, mpeg-2": Form("ts", MPEG),
    "ts, ac3": Form("ts", {"audio": "ac3"}),
    "mpeg-ps": Form("mpg", MPEG),
    "mpeg-ps, ac3": Form("mpg", MPEG | {"audio": "ac3"}),
    "vob": Form("vob", MPEG | {"audio": "ac3"}),
    "nut": Form("nut", {}),
    "m2ts": Form("m2ts", {}),
    "fragmented mp4, no B-frames": Form("mp4", {"b_frames": 0, "options": FRAGMENTED}),
    "mp4, late picture": Form("mp4", {"picture_begins": 0.52}),
    "mp4, late sound": Form("mp4", {"sound_begins": 0.5}),
    "mkv, late picture": Form("mkv", {"picture_begins": 0.52}),
    "mkv, late sound": Form("mkv", {"sound_begins": 0.5}),
    "flv, late picture": Form("flv", {"picture_begins": 0.52, "rate": 44100}),
    "mpeg-ps, late picture, a stamp twice": Form("mpg", MPEG | {"picture_begins": 0.52}, uncertain=None),
    "ts, late sound": Form("ts", {"sound_begins": 0.5}),
    "ts, stamps from 1000 s on": Form("ts", {"shift": 1000.0}),
    "mkv, stamps from 3 s on": Form("mkv", {"shift": 3.0}),
    "mp4, 10 frames a second": Form("mp4", {"fps": 10}),
    "avi, 10 frames a second": Form("avi", PCM | {"fps": 10}),
    "mp4, one packet lost": Form("mp4", lost(80)),
    "mkv, 20 packets lost": Form("mkv", lost(*range(80, 100))),
    "mkv, every third packet lost": Form("mkv", lost(*range(70, 100, 3))),
    "ts, packets lost": Form("ts", lost(*range(80, 90))),
    "flv, packets lost": Form("flv", lost(*range(80, 85)) | {"rate": 44100}),
    "mp4, lost near the end": Form("mp4", lost(165, 166, 167, 168, 169, 170, 171)),
    "mkv, hole of 1 s": Form("mkv", moved("audio", lambda n: 1.0 if n > 150 else 0.0)),
    "mp4, drift of 0.5 %": Form("mp4", slower(0.005), within=10e-3),
    "mp4, drift of -0.5 %": Form("mkv", slower(-0.005), within=10e-3),
    "mp4, a last stamp an hour late": Form(
        "mp4", moved("video", one(99, 3600.0)) | {"b_frames": 0}, uncertain=True
    ),
    "mkv, a last stamp an hour late": Form(
        "mkv", moved("video", one(99, 3600.0)) | {"b_frames": 0}, uncertain=True
    ),
    "mkv, a last stamp 5 s late": Form("mkv", moved("video", one(99, 5.0)) | {"b_frames": 0}, uncertain=True),
    "mkv, pcm": Form("mkv", PCM),
    "mov, 22.05 kHz": Form("mov", PCM | {"rate": 22050}),
    "mkv, 11.025 kHz": Form("mkv", {"rate": 11025}),
    "flv, mp3": Form("flv", {"audio": "libmp3lame", "rate": 44100}),
}
assert len(EVERY_DAY | FORMS) >= 60


@pytest.mark.parametrize(
    "name", [*EVERY_DAY, *(pytest.param(name, marks=pytest.mark.proof) for name in FORMS)]
)
def test_every_frame_and_every_block_of_sound_is_where_its_stamp_puts_it(name: str, tmp_path: Path) -> None:
    form = (EVERY_DAY | FORMS)[name]
    path = timed.make(tmp_path / f"clip.{form.ending}", **form.how)
    fps = form.how.get("fps", 25)
    seen = timed.see(path)
    late = seen.late(fps)["fragmented" in name :]  # its first frame lasts until the sound has caught up
    apart = seen.clicks - np.array(CLICKS) - np.median(late)
    if "drift" in name:  # what is heard later is shown later, too
        apart -= np.array(CLICKS) * {"-": -0.005, "1": 0.01}.get(name.split(" of ")[1][0], 0.005)
    assert len(seen.numbers) == round((timed.SECONDS - form.how.get("picture_begins", 0)) * fps)
    assert np.ptp(late) <= 1.5 / fps if "stamp" in name else np.ptp(late) < 1.1e-3
    assert np.abs(apart).max() <= form.within, apart
    assert form.uncertain is None or seen.uncertain == form.uncertain
    _check_windows(path, exact=form.ending in ("mp4", "mov") and form.within < 5e-3, within=form.within)


def _check_windows(path: Path, *, exact: bool, within: float) -> None:
    """A part of it, and a moment, are as in the whole."""
    whole = media.read_waveform(path, sample_rate=RATE)
    clicks = timed.clicks_in(whole, RATE)
    for number, start in ((0, 0.7), (1, 2.5)):
        part = media.read_waveform(path, sample_rate=RATE, start=start, end=start + 1.25)
        found = timed.clicks_in(part, RATE, 1)[0] + start
        assert found == pytest.approx(clicks[number], abs=(1 / RATE if exact else max(1.1e-3, within / 2)))
    with media.MediaFile(path) as file:
        next(file.positions(0.0))
        shown = [
            (timed.number_of(frame.to_ndarray(format="rgb24")), time)
            for frame, time in file.decoded(file.video)
        ]
        for moment in (3.1, 1.5, 2.2):
            picture = media.find_frame(file, moment)
            wanted = max((time, number) for number, time in shown if time <= moment + 1e-3)
            assert (picture.time, timed.number_of(picture.rgb())) == (
                pytest.approx(wanted[0], abs=1e-3),
                wanted[1],
            )


@pytest.mark.parametrize("b_frames", [0, pytest.param(2, marks=pytest.mark.proof)])
@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize(
    ("number", "by"), [(0, 0.4), (60, 0.3), (60, -0.3), (60, 3600.0), (-1, 5.0), (-1, 3600.0)]
)
def test_one_stray_stamp_moves_nothing(
    tmp_path: Path, kind: str, number: int, by: float, b_frames: int
) -> None:
    path = timed.make(tmp_path / "a.flv", rate=44100, b_frames=b_frames)
    last = {"video": 99, "audio": 173}[kind] if number == -1 else number
    right, moves = timed.see(path), lambda stream, tag: by if (stream, tag) == (kind, last) else 0.0
    seen = timed.see(timed.move_tags(path, moves))
    within = 0.05 if kind == "video" else 0.0
    late = seen.late() - np.median(seen.late())
    assert np.abs(late).max() <= 1e-3 + within and seen.times[-1] < 4.2
    assert seen.clicks - np.median(seen.late()) == pytest.approx(
        right.clicks - np.median(right.late()), abs=1e-3
    )
    with media.MediaFile(path) as file:
        assert len(list(media.shown_frames(file, rate=25))) <= 101


def test_a_first_stamp_that_strays_far_is_refused_where_all_others_wrap_around(tmp_path: Path) -> None:
    path = timed.make(tmp_path / "a.flv", rate=44100)
    path = timed.move_tags(path, lambda stream, tag: 3600.0 if (stream, tag) == ("video", 0) else 0.0)
    with pytest.raises(media.UnusableMedia, match="h without sound by its time stamps"):
        timed.see(path)
    with (
        media.MediaFile(path) as file,
        pytest.raises(media.UnusableMedia, match="h without a new picture by its time stamps"),
    ):
        list(media.shown_frames(file, rate=25))


def test_sound_that_ffmpeg_drops_of_small_fragments_is_counted_as_damage(tmp_path: Path) -> None:
    found = {}
    for fragments in ("frag_keyframe", "frag_every_frame"):
        options = {"movflags": f"{fragments}+empty_moov"}
        with media.MediaFile(timed.make(tmp_path / f"{fragments}.mp4", options=options)) as file:
            found[fragments] = sum(1 for _ in file.decoded(file.sound)), file.damaged
    (heard, none), (some, lost) = found.values()
    assert none == 0 and some + lost == heard and lost > heard / 4
    with media.MediaFile(tmp_path / "frag_every_frame.mp4") as file:
        file.until = 1.0
        assert sum(1 for _ in file.decoded(file.sound)) == some and 0 < file.damaged < lost / 3


def test_a_stray_stamp_within_a_clip_does_not_move_its_middle(tmp_path: Path) -> None:
    path = timed.make(tmp_path / "a.flv", rate=44100)
    with media.MediaFile(path) as file:
        length = file.duration()
    path = timed.move_tags(path, lambda stream, tag: 5.0 if (stream, tag) == ("video", 60) else 0.0)
    with media.MediaFile(path) as file:
        assert file.duration() == pytest.approx(length, abs=1e-3)


def test_a_gap_that_a_stray_stamp_makes_is_not_taken_for_the_pace() -> None:
    stream = SimpleNamespace(average_rate=25, guessed_rate=25, index=0, time_base=Fraction(1, 25))
    clock = Clock(stream)
    stamps = [0, 630, 631, 626, *range(633, 730)]  # the first and the fourth were not brought onto the clock
    frames = [SimpleNamespace(pts=stamp, dts=None) for stamp in stamps]
    times = [found[1] for frame in [*frames, None] if (found := clock.place(frame))]
    assert times[-1] == pytest.approx(729 / 25) and clock.uncertain


def test_a_first_block_of_sound_that_strays_is_put_before_the_second(tmp_path: Path) -> None:
    path = timed.make(tmp_path / "a.ts")
    data = bytearray(path.read_bytes())
    at = (
        data.index(b"\0\0\1\xc0") + 9
    )  # the stamp of the first audio packet: bits 32 to 30, 29 to 15, 14 to 0
    late = 3600 * 90000
    data[at + 1 : at + 3] = (late >> 14 & 0xFFFE | 1).to_bytes(2, "big")
    path.write_bytes(data)
    with media.MediaFile(path) as file:
        sound = media.hear(file, [media.Form(16000)])[0]
        assert file.duration() == pytest.approx(4, abs=0.1) and file.uncertain
        assert sound.first == pytest.approx(0, abs=0.05) and sound.waveform().shape[1] < 5 * 16000


def test_blocks_without_a_time_come_after_the_first_one_that_has_one() -> None:
    sound = media.Sound(media.Form(RATE), length=4.0, path=Path("a.m2ts"))
    for number in range(20):
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        block.sample_rate = RATE
        sound.add(block, None if number else 0.7)
    assert (sound.first, sound.due) == pytest.approx((0.7, 0.7 + 20 * 1024 / RATE))


@pytest.mark.parametrize("fps", [25, 10, 5])
def test_a_cut_that_begins_inside_a_frame(tmp_path: Path, fps: float) -> None:
    path = timed.set_edits(timed.make(tmp_path / "a.mp4", fps=fps), [(3.37, 0.63)])
    seen = timed.see(path)
    assert seen.late(fps) == pytest.approx(-0.63, abs=1e-3)
    assert seen.clicks - CLICKS == pytest.approx(-0.63, abs=2e-3)
    part = media.read_waveform(path, sample_rate=RATE, start=1.5, end=3.0)
    assert timed.clicks_in(part, RATE, 1)[0] + 1.5 == pytest.approx(seen.clicks[1], abs=1 / RATE)
    with media.MediaFile(path) as file:
        assert media.find_frame(file, 2.0).time == pytest.approx(
            int(2.63 * fps + 1e-6) / fps - 0.63, abs=1e-3
        )


def test_several_edits(tmp_path: Path) -> None:
    path = timed.set_edits(timed.make(tmp_path / "a.mp4"), [(0.5, None), (1.0, 0.63), (1.2, 2.51)])
    seen = timed.see(path)
    late = seen.late()
    first = np.array(seen.numbers) < 50
    assert late[first] == pytest.approx(-0.63, abs=1e-3)  # the clip starts with its earliest stream
    assert late[~first] == pytest.approx(1.0 - 2.51, abs=1e-3)
    assert seen.clicks == pytest.approx([1.0 - 0.63, 3.0 + 1.0 - 2.51], abs=2e-3)


@pytest.mark.parametrize("ending", ["flv", "ts", "mpg", "mp4"])
def test_clips_that_were_joined_are_said_to_be_uncertain_and_stay_in_time(
    tmp_path: Path, ending: str
) -> None:
    how = {"flv": {"rate": 44100}, "mpg": MPEG, "mp4": {"options": FRAGMENTED}}.get(ending, {})
    path = timed.make(tmp_path / f"a.{ending}", **how)
    data = path.read_bytes()
    path.write_bytes(data + data[13 if ending == "flv" else 0 :])  # FLV: without a second header
    seen = timed.see(path, clicks=4)
    assert seen.uncertain and (np.diff(seen.times) > 0).all() and seen.times[-1] < 9
    assert len(seen.numbers) > 160  # of the mp4, FFmpeg passes over some
    assert seen.clicks[-1] - 3.0 == pytest.approx(np.median(seen.late()[-20:]), abs=2e-3)


def test_a_jump_ahead_is_closed_up_and_said(tmp_path: Path) -> None:
    first, second = (timed.make(tmp_path / f"{k}.ts", shift=3600.0 * k) for k in range(2))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    seen = timed.see(tmp_path / "both.ts", clicks=4)
    assert seen.uncertain and seen.times[-1] < 9
    assert seen.clicks[2] - 1.0 - np.median(seen.late()[100:]) == pytest.approx(0, abs=2e-3)


def test_a_length_that_a_header_gets_wrong(tmp_path: Path) -> None:
    path = timed.make(tmp_path / "a.avi", **PCM)
    data = bytearray(path.read_bytes())
    at = data.index(b"avih") + 8 + 16
    data[at : at + 4] = (16300).to_bytes(4, "little")
    at = data.index(b"strh") + 8 + 32
    data[at : at + 4] = (16300).to_bytes(4, "little")
    path.write_bytes(data)
    with media.MediaFile(path) as file:
        assert file.duration() == pytest.approx(4, abs=0.05)


def test_a_wild_stamp_at_the_end_does_not_move_the_middle(tmp_path: Path) -> None:
    path = timed.make(tmp_path / "a.mp4", b_frames=0, **moved("video", one(99, 3600.0)))
    with media.MediaFile(path) as file:
        assert file.duration() == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_an_avi_that_begins_inside_a_group_of_pictures_is_said_to_be_uncertain(
    tmp_path: Path, b_frames: int
) -> None:
    path = timed.make(tmp_path / "a.avi", b_frames=b_frames, **PCM, **lost(0, kind="video"))
    assert timed.see(path).uncertain


# Of an MPEG program stream of H.264: which frames have a stamp, and by how many frames FFmpeg is late with it.
SPARSE = {0: 0, 17: 0, 33: 0, 52: 5, 57: 0, 76: 0}, {0: 0, 14: 0, 15: -1, 43: 0, 70: 0}


@pytest.mark.parametrize("late", SPARSE)
@pytest.mark.parametrize("hole", [0, 20])
def test_where_few_frames_have_stamps_one_of_another_frame_moves_nothing(
    late: dict[int, int], hole: int
) -> None:
    stream = SimpleNamespace(average_rate=25, guessed_rate=25, index=0, time_base=Fraction(1, 25))
    clock = Clock(stream)
    stamps = late | dict.fromkeys((90, 100, 110, 120, 130, 140), hole)
    frames = [SimpleNamespace(pts=at + stamps[at] if at in stamps else None, dts=None) for at in range(150)]
    placed = [found for frame in [*frames, None] if (found := clock.place(frame))]
    times = np.array([time for _, time in placed])
    assert times[:90] == pytest.approx(np.arange(90) / 25, abs=1e-6)
    assert times[130:] == pytest.approx((np.arange(130, 150) + hole) / 25, abs=1e-6)
    assert clock.uncertain == (hole > 0)


def test_what_had_to_be_guessed_is_known_as_soon_as_it_is_read(tmp_path: Path) -> None:
    path = timed.make(tmp_path / "a.wmv", audio="libmp3lame", rate=44100)
    with media.MediaFile(path) as file:
        media.find_frame(file, 0.5)
        assert file.uncertain


def test_damage_after_the_end_of_a_window_is_not_its_own(tmp_path: Path) -> None:
    def broken(kind: str, number: int, packet: av.Packet) -> av.Packet:
        if (kind, number) != ("video", 40):
            return packet
        other = av.Packet(bytes(range(1, 200)))
        other.stream, other.pts, other.dts = packet.stream, packet.pts, packet.dts
        other.time_base, other.duration = packet.time_base, packet.duration
        return other

    path = timed.make(tmp_path / "a.mkv", video="mjpeg", change=broken)  # 1.6 s
    how = {"frame_rate": 2.0, "short_side": 48, "sample_rate": 16000}
    assert media.decode_clip(path, **how).damaged == 1
    assert media.decode_clip(path, end=1.1, **how).damaged == 0


def test_a_stream_that_begins_in_mid_file_is_passed_over(tmp_path: Path) -> None:
    first, second = tmp_path / "a.ts", tmp_path / "b.ts"
    timed.make(first)
    timed.make(second, options={"mpegts_start_pid": "512", "mpegts_pmt_start_pid": "4000"})
    nothing = (b"\x47\x1f\xff\x10" + bytes(184)) * 30_000  # more than is looked at to open it
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + nothing + second.read_bytes())
    seen = timed.see(tmp_path / "both.ts")
    assert len(seen.numbers) == 100 and seen.uncertain
    assert seen.clicks - CLICKS == pytest.approx(np.median(seen.late()), abs=2e-3)


def test_channels_that_cancel_do_not_turn_over(tmp_path: Path) -> None:
    left = timed.sound(timed.SECONDS) * 0.5
    louder = np.where(np.arange(len(left)) < 2 * RATE, 0.999, 1.001)  # as rounding may have it
    soundfile.write(tmp_path / "a.wav", np.stack([left * louder, -left], 1), RATE, subtype="FLOAT")
    heard = media.read_waveform(tmp_path / "a.wav", sample_rate=RATE)
    seconds = zip(heard.reshape(4, -1), left.reshape(4, -1), strict=True)
    assert len({float(np.sign(np.dot(one, other))) for one, other in seconds}) == 1


@pytest.mark.parametrize("ending", ["wav", "mkv"])
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_channels_that_cancel_are_not_silence(tmp_path: Path, ending: str, part: float) -> None:
    left = timed.sound(timed.SECONDS) * 0.5
    right = np.where(np.arange(len(left)) < part * len(left), -left, left)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE)
    path = tmp_path / "a.wav"
    if ending == "mkv":
        both = np.stack([left, right])
        path = timed.make(tmp_path / "a.mkv", audio="pcm_s16le", channels=both, layout="stereo")
    with media.MediaFile(path) as file:
        sound = media.hear(file, [media.Form(RATE)])[0]
        heard = sound.waveform()[0]
    assert sound.mixing == [media.OPPOSITE]
    assert timed.clicks_in(heard, RATE) == pytest.approx(CLICKS, abs=1e-3)
    assert np.abs(heard).max() == pytest.approx(0.4 * 32768, rel=0.02)


@pytest.mark.parametrize("channels", [2, 6])
def test_a_silent_channel_does_not_lower_the_level(tmp_path: Path, channels: int) -> None:
    sound = np.zeros((round(timed.SECONDS * RATE), channels), np.float32)
    sound[:, 0] = timed.sound(timed.SECONDS) * 0.5
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    heard = media.read_waveform(tmp_path / "a.wav", sample_rate=RATE)
    assert np.abs(heard.astype(int)).max() == pytest.approx(0.4 * 32768, rel=0.02)


@pytest.mark.parametrize("kind", ["wav", "m4a"])
@pytest.mark.parametrize("channels", [6, 8])
def test_channels_that_cancel_beside_silent_ones_keep_their_level(
    tmp_path: Path, channels: int, kind: str
) -> None:
    left = timed.sound(timed.SECONDS) * 0.5
    layout = {6: "5.1", 8: "7.1"}[channels]
    data = np.zeros((channels, len(left)), np.float32)
    data[:2] = left, -left
    with av.open(str(tmp_path / f"a.{kind}"), "w") as out:
        stream = out.add_stream("aac" if kind == "m4a" else "pcm_s16le", rate=RATE, layout=layout)
        block = av.AudioFrame.from_ndarray(data.T.reshape(1, -1), "flt", layout)
        block.sample_rate = RATE
        for packet in [*stream.encode(block), *stream.encode(None)]:
            out.mux(packet)
    with media.MediaFile(tmp_path / f"a.{kind}") as file:
        sound, whole = media.hear(file, [media.Form(RATE), media.AS_IT_IS])
        heard = sound.waveform()[0]
        assert whole.waveform().shape[0] == channels
    assert sound.mixing == [media.OPPOSITE, media.ONE_SIDED]
    assert np.abs(heard).max() == pytest.approx(0.4 * 32768, rel=0.05)


def test_a_late_picture_and_a_guessed_time_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = timed.make(tmp_path / "late.mp4", picture_begins=3.0)
    clip = media.decode_clip(path, frame_rate=2, short_side=48, sample_rate=RATE)
    assert clip.picture_begins == pytest.approx(3.0) and clip.sound_begins == 0
    with Clip(path) as opened:
        opened.fresh_frame(1.0)
    assert "no new frame before 3.00 s: what is seen at 1.00 s is that one" in capsys.readouterr().err
    path = timed.make(tmp_path / "a.asf")
    with Clip(path) as opened:
        opened.fresh_frame(1.0)
        opened.sound(rate=RATE)
    assert "uncertain time stamps" in capsys.readouterr().err


@pytest.mark.parametrize("begins", [0.0, 0.5213])
def test_what_is_written_begins_when_it_should(tmp_path: Path, begins: float) -> None:
    frames = (timed.frame_of(number) for number in range(30))
    media.write_clip(
        tmp_path / "a.mp4", frames, fps=12.5, waveform=timed.sound(4.0), sample_rate=RATE, start=begins
    )
    seen = timed.see(tmp_path / "a.mp4")
    assert seen.late(12.5) == pytest.approx(begins, abs=1e-3) and seen.clicks == pytest.approx(
        CLICKS, abs=1e-3
    )
