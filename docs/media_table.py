"""The table of docs/media.md: what avtool, FFmpeg, PyAV, torchcodec and OpenCV make of the same clips.

    python docs/media_table.py > docs/media.md
    python docs/media_table.py --part time --only mp4

The clips are those of tests/unit/test_time.py and tests/unit/test_picture.py, made here anew. A tool that is not
installed is left out, and the page says so. FFmpeg is the program ``ffmpeg``; torchcodec needs its shared libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests/

from avtool import media
from avtool.data.catalog import Row
from avtool.data.convert import PreparedClip, Settings, convert
from tests import timed
from tests.timed import CLICKS, RATE, clicks_in, number_of

LOST = 1000.0
"""Seconds: a tool that is off by more, or hears no click, has lost the times."""


class Played(NamedTuple):
    """What a tool makes of a clip: frames with their times, and the sound with the time at which it begins. A tool that
    reads no sound has None there."""

    frames: Sequence[np.ndarray]
    times: np.ndarray
    sound: np.ndarray | None
    begins: float = 0.0


class Refused(Exception):
    """A clip that avtool does not prepare, and why."""


class Tool(NamedTuple):
    """``version`` is None where it is not installed."""

    name: str
    version: str | None
    play: Callable[[Path, float], Played]


def by_pyav(path: Path, fps: float) -> Played:
    """As its documentation decodes: each frame at its own time, the sound in one piece from its first block on."""
    with av.open(str(path)) as file:
        found = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in file.decode(video=0)]
    frames, times = zip(*found, strict=True)
    sound, begins = None, 0.0
    with av.open(str(path)) as file:
        if file.streams.audio:
            resampler = av.AudioResampler("flt", "mono", RATE)
            blocks = [*file.decode(audio=0)]
            begins = blocks[0].time or 0.0
            for block in blocks:
                block.pts = None
            parts = [part for block in [*blocks, None] for part in resampler.resample(block)]
            sound = np.concatenate([part.to_ndarray()[0] for part in parts])
    return Played(frames, np.array([np.nan if time is None else time for time in times]), sound, begins)


def by_ffmpeg(path: Path, fps: float) -> Played:
    """The usual two outputs: pictures at the clip's rate, and a sound file."""
    with tempfile.TemporaryDirectory() as folder:
        pictures, sound = Path(folder) / "%06d.png", Path(folder) / "sound.f32"
        with av.open(str(path)) as file:
            heard = bool(file.streams.audio)
        command = [
            "ffmpeg",
            "-v",
            "error",
            "-i",
            str(path),
            "-map",
            "0:v",
            "-r",
            str(fps),
            "-t",
            "20",
            str(pictures),
        ]
        if heard:
            command += ["-map", "0:a", "-ac", "1", "-ar", str(RATE), "-f", "f32le", str(sound)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        frames = [cv2.imread(str(file))[..., ::-1] for file in sorted(Path(folder).glob("*.png"))]
        waveform = np.fromfile(sound, np.float32) if heard else None
    return Played(frames, np.arange(len(frames)) / fps, waveform)


def by_torchcodec(path: Path, fps: float) -> Played:
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    pictures = VideoDecoder(path, dimension_order="NHWC", seek_mode="exact")
    found = []
    with contextlib.suppress(RuntimeError):  # in some forms the last ones cannot be had
        for number in range(len(pictures)):
            found.append(pictures.get_frame_at(number))
    sound, begins = None, 0.0
    with av.open(str(path)) as file:
        heard = bool(file.streams.audio)
    if heard:
        samples = AudioDecoder(path, sample_rate=RATE, num_channels=1).get_all_samples()
        sound, begins = samples.data[0].numpy(), samples.pts_seconds
    frames, times = [frame.data.numpy() for frame in found], np.array([frame.pts_seconds for frame in found])
    return Played(frames, times, sound, begins)


def by_opencv(path: Path, fps: float) -> Played:
    capture = cv2.VideoCapture(str(path))
    frames, times = [], []
    while True:
        more, frame = capture.read()
        if not more:
            return Played(frames, np.array(times), None)
        frames.append(frame[..., ::-1])
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)


def tools() -> list[Tool]:
    """All of them; those that cannot be used have no version."""
    program = None
    if shutil.which("ffmpeg"):
        said = subprocess.run(["ffmpeg", "-version"], check=True, capture_output=True, text=True).stdout
        program = re.match(r"ffmpeg version (\S+)", said)
    return [
        Tool("FFmpeg", program[1] if program else None, by_ffmpeg),
        Tool("PyAV", f"{av.__version__} (FFmpeg {av.ffmpeg_version_info})", by_pyav),
        Tool("torchcodec", _version_of("torchcodec", "torchcodec.decoders"), by_torchcodec),
        Tool("OpenCV", cv2.__version__, by_opencv),
    ]


def _version_of(package: str, module: str) -> str | None:
    try:
        importlib.import_module(module)
        return version(package)
    except (ImportError, OSError, RuntimeError, PackageNotFoundError) as error:
        print(f"{package} is left out: {str(error).strip().splitlines()[0]}", file=sys.stderr)
        return None


def apart(played: Played, fps: float, truth: Sequence[float], count: int = 0) -> str:
    """Milliseconds by which the sound is later than the picture, at the click where it is most, and whether the frames
    fit their times. ``truth``: seconds at which the file's own stamps put the clicks, and where a tool that reads no
    sound is taken to hear them. ``count``: how many frames there are."""
    if not len(played.frames):
        return "no frames"
    numbers = np.array([number_of(frame) for frame in played.frames])
    late = played.times - numbers / fps
    if np.isnan(late).all():
        return "no times"
    heard = truth
    if played.sound is not None:
        heard = [time + played.begins for time in clicks_in(played.sound, RATE)]
    nearest = [late[np.nanargmin(np.abs(numbers / fps - at))] for at in CLICKS]
    found = [click - at - shown for click, at, shown in zip(heard, truth, nearest, strict=True)]
    spread = np.nanmax(late) - np.nanmin(late)
    worst = max((value for value in found if not np.isnan(value)), key=abs, default=np.nan)
    if not abs(worst) < LOST:
        return "times lost"
    text = re.sub(r"^-0\.0$", "+0.0", f"{1000 * worst:+.1f}")
    if spread >= 1.5 / fps:
        text += f", frames {1000 * spread:.0f} apart"
    there = len(set(numbers))
    return text if there >= count else f"{text}, {there} of {count} frames"


def levels(picture: np.ndarray, truth: np.ndarray) -> str:
    """The largest error of a colour, in levels of 256."""
    picture_tests = importlib.import_module("tests.unit.test_picture")
    return str(int(np.abs(picture_tests.seen(picture) - truth).max()))


def attempt(work: Callable[[], str]) -> str:
    """What ``work`` says, or what kept it from that: a tool that cannot read a form is a cell of the table."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - of any library, whatever it raises
        return f"refused: {error}" if isinstance(error, Refused) else type(error).__name__


def prepared(path: Path) -> PreparedClip:
    """``path`` as it is stored, 4 frames a second."""
    clip = convert(Row("clip", "test", ("x",), video=path), Settings(frame_rate=4.0, sample_rate=RATE))
    if not isinstance(clip, PreparedClip):
        raise Refused(clip.reason)
    return clip


def from_jpeg(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def time_rows(folder: Path, only: str, found: list[Tool]) -> list[list[str]]:
    """A row for each form of tests/unit/test_time.py."""
    forms = importlib.import_module("tests.unit.test_time")
    rows = []
    for name, form in (forms.EVERY_DAY | forms.FORMS).items():
        if only not in name:
            continue
        path = timed.make(folder / f"clip.{form.ending}", **form.how)
        fps = form.how.get("fps", 25)
        drift = {"-": -0.005, "1": 0.01}.get(name.split(" of ")[1][0], 0.005) if "drift" in name else 0.0
        truth = [at * (1 + drift) for at in CLICKS]
        count = round((timed.SECONDS - form.how.get("picture_begins", 0)) * fps)
        others = [_time_by(tool, path, fps, truth, count) for tool in found]
        rows.append([name, *_times_of(path, fps, truth, count), *others])
        path.unlink()
        print(" | ".join(rows[-1]), file=sys.stderr)
    return rows


def _times_of(path: Path, fps: float, truth: Sequence[float], count: int) -> list[str]:
    def read() -> str:
        with media.MediaFile(path) as file:
            next(file.positions(0.0))
            shown = [(frame.to_ndarray(format="rgb24"), time) for frame, time in file.decoded(file.video)]
            sound = media.hear(file, [media.Form(RATE)])[0].waveform()[0]
            frames, times = zip(*shown, strict=True)
            flag = ", uncertain" if getattr(file, "uncertain", False) else ""
        return apart(Played(frames, np.array(times), sound), fps, truth, count) + flag

    def stored() -> str:
        clip = prepared(path)
        sound = clip.waveform.astype(np.float32) / (32768 if clip.waveform.dtype == np.int16 else 1)
        flags = "".join(f", {flag}" for flag in clip.flags if flag != "muted in part")  # between the clicks
        frames = [from_jpeg(jpeg) for jpeg in clip.jpegs]
        return apart(Played(frames, np.array(clip.times), sound), fps, truth) + flags

    return [attempt(read), attempt(stored)]


def _time_by(tool: Tool, path: Path, fps: float, truth: Sequence[float], count: int) -> str:
    return attempt(lambda: apart(tool.play(path, fps), fps, truth, count))


def picture_rows(folder: Path, only: str, found: list[Tool]) -> list[list[str]]:
    """A row for each form of tests/unit/test_picture.py."""
    tests = importlib.import_module("tests.unit.test_picture")
    rows = []
    for form in tests.FORMS:
        name, codec, pixels, matrix, full, tags, lines, options = form.values
        if only not in form.id:
            continue
        colours = tests.COLOURS[[5, 1, 2, 5, 1, 2]] if pixels.startswith(("gray", "ya")) else tests.COLOURS
        truth = tests.patches(lines, 2 * lines, colours)
        frame = tests.coded(pixels, matrix, full, truth / 255)
        path = tests.write(folder / name, codec, frame, tags=tags, **options)
        rows.append([f"{path.suffix[1:]}, {form.id}", *_colours_of(path, colours)])
        rows[-1] += [_colour_by(tool, path, colours) for tool in found]
        path.unlink()
        print(" | ".join(rows[-1]), file=sys.stderr)
    return rows


def with_sound(silent: Path, heard: Path) -> Path:
    """The pictures of ``silent``, as they are coded, beside a sound: a silent clip is not prepared."""
    codec = {".mp4": "aac", ".webm": "libopus", ".mpg": "mp2", ".ts": "mp2"}.get(heard.suffix, "pcm_s16le")
    with av.open(str(silent)) as file, av.open(str(heard), "w") as out:
        pictures = out.add_stream_from_template(file.streams.video[0], opaque=True)
        sound = out.add_stream(codec, rate=RATE, layout="mono")
        noise = np.random.default_rng(0).integers(-9000, 9000, (1, RATE), np.int16)
        block = av.AudioFrame.from_ndarray(noise, "s16", "mono")
        block.sample_rate, block.pts = RATE, 0
        for packet in file.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                out.mux(packet)
        resampler = av.AudioResampler(sound.format, "mono", RATE, sound.codec_context.frame_size or None)
        for part in [*resampler.resample(block), *resampler.resample(None), None]:
            out.mux(sound.encode(part))
    return heard


def _colours_of(path: Path, colours: np.ndarray) -> list[str]:
    def read() -> str:
        with media.MediaFile(path) as file:
            return levels(media.find_frame(file, 0.5).rgb(None), colours)

    def stored() -> str:
        heard = with_sound(path, path.with_name(f"heard{path.suffix}"))
        copied, original = (
            attempt(lambda of=of: levels(by_pyav(of, 5).frames[2], colours)) for of in (heard, path)
        )
        if copied != original:
            return "PyAV cannot copy it"
        clip = prepared(heard)
        return levels(from_jpeg(clip.jpegs[clip.key]), colours)

    return [attempt(read), attempt(stored)]


def _colour_by(tool: Tool, path: Path, colours: np.ndarray) -> str:
    return attempt(lambda: levels(tool.play(path, 5).frames[2], colours))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PAGE = """# Time and colour in {count} forms of clips

Made by `python docs/media_table.py` with avtool {avtool}, Python {python}, {versions}.{absent}
The clips are those of `tests/unit/test_time.py` and `tests/unit/test_picture.py`: frames that say their number, clicks
at 1 and 3 s, and patches of known colour. "read" is what avtool reads of the clip, "stored" what is in prepared data
(4 frames a second, JPEG). The name of an error stands where a tool cannot read a form."""
TIME = """## Time: milliseconds by which the sound is later than the picture

At the click where it is most, held against the file's own time stamps. "frames N apart": the times of the frames do not
fit their numbers by N ms. FFmpeg: the usual command for pictures at the clip's rate and a sound file. OpenCV reads no
sound: the true one is taken."""
PICTURE = """## Colour: the largest error, in levels of 256"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("time", "picture"), action="append", help="only this table")
    parser.add_argument("--only", default="", help="only forms whose name holds this")
    given = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    known = tools()
    found = [tool for tool in known if tool.version]
    absent = [tool.name for tool in known if not tool.version]
    head = ["form", "avtool, read", "stored", *(tool.name for tool in found)]
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for part, title, work in (("time", TIME, time_rows), ("picture", PICTURE, picture_rows)):
            if not given.part or part in given.part:
                parts.append((title, work(Path(folder), given.only, found)))
    print(
        PAGE.format(
            count=sum(len(rows) for _, rows in parts),
            avtool=version("avtool"),
            python=platform.python_version(),
            versions=", ".join(f"{tool.name} {tool.version}" for tool in found),
            absent=f" Not installed, so not in the tables: {', '.join(absent)}." if absent else "",
        )
    )
    for title, rows in parts:
        print(f"\n{title}\n\n{table(head, rows)}")


if __name__ == "__main__":
    main()
