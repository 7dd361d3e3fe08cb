"""Clips, frames, images and sound."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import soundfile
from PIL import Image

from avtool import media
from avtool.errors import MediaError
from tests import clips

RATE = clips.RATE


def decode(path: Path, **options) -> media.DecodedClip:
    return media.decode_clip(path, **{"frame_rate": 2, "short_side": 256, "sample_rate": RATE, **options})


@pytest.fixture(scope="module")
def levels(tmp_path_factory) -> Path:
    """10 frames a second for 4 s, every frame of its own grey level; a click at 1 s."""
    path = tmp_path_factory.mktemp("levels") / "levels.mp4"
    media.write_clip(
        path, clips.level_frames(40), fps=10, waveform=clips.click(4, 1.0, 44100), sample_rate=44100
    )
    return path


def test_what_a_header_says(levels):
    video, sound = clips.streams_of(levels).values()
    assert (video["width"], video["height"], video["fps"], video["rotation"]) == (64, 48, 10, 0)
    assert (sound["rate"], sound["channels"]) == (44100, 1)
    assert media.describe_container(levels)["duration"] == pytest.approx(4, abs=0.03)


@pytest.mark.parametrize(("at", "frame"), [(0.0, 0), (0.1, 1), (1.26, 12), (None, 20), (3.95, 39), (4.0, 39)])
def test_frame_shown_at_a_time_is_the_last_that_appeared(levels, at, frame):
    picture, shown = media.read_frame(levels, at)
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    assert clips.level_of(picture) == frame
    assert shown == pytest.approx(frame / 10, abs=1e-3)


@pytest.mark.parametrize("at", [4.5, -1.0])
def test_time_outside_the_clip_is_refused_and_its_length_named(levels, at):
    with pytest.raises(MediaError, match=r"levels\.mp4 is 4\.\d\d s long"):
        media.read_frame(levels, at)


def test_sound_is_resampled_and_stays_where_it_was(levels):
    waveform = media.read_waveform(levels)
    assert waveform.dtype == np.int16 and len(waveform) == pytest.approx(4 * RATE, abs=RATE * 0.03)
    assert clips.where_is_click(waveform) == pytest.approx(1.0, abs=0.003)
    assert np.abs(waveform.astype(int)).max() == pytest.approx(0.8 * 32768, rel=0.1)


@pytest.mark.parametrize(("delay_sound", "delay_video"), [(0.7, 0.0), (0.0, 0.7)])
def test_streams_that_start_apart_stay_aligned(levels, tmp_path, delay_sound, delay_video):
    path = clips.remux(levels, tmp_path / "a.mkv", delay_sound=delay_sound, delay_video=delay_video)
    clip = decode(path, frame_rate=10)
    frame_10 = clip.times[[clips.level_of(frame) for frame in clip.frames].index(10)]  # 1 s into the picture
    assert clips.where_is_click(clip.waveform) - frame_10 == pytest.approx(
        delay_sound - delay_video, abs=0.005
    )
    picture, shown = media.read_frame(path, frame_10 + 0.05)
    assert clips.level_of(picture) == 10 and shown == pytest.approx(frame_10)
    assert clips.level_of(media.read_frame(path, 0.05)[0]) == 0  # before the first frame: the first


def test_one_pass_keeps_the_frames_of_a_grid_around_the_middle(levels):
    clip = decode(levels)
    assert [clips.level_of(frame) for frame in clip.frames] == [0, 5, 10, 15, 20, 25, 30, 35]
    assert clip.times == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5], abs=1e-3)
    assert clip.key == 4 and clip.damaged == 0
    np.testing.assert_array_equal(clip.waveform, media.read_waveform(levels))


def test_a_key_time_is_on_the_grid(levels):
    clip = decode(levels, key_time=1.3)
    assert [clips.level_of(frame) for frame in clip.frames] == [3, 8, 13, 18, 23, 28, 33, 38]
    assert clip.key == 2


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.5), (1.5, 3.5)])
def test_a_part_of_a_clip(levels, start, end):
    clip = decode(levels, start=start, end=end)
    middle = (end - start) / 2
    assert clip.duration == pytest.approx(end - start)
    assert clip.times[clip.key] == pytest.approx(middle, abs=1e-3)
    assert clips.level_of(clip.frames[clip.key]) == round(10 * (start + middle))
    assert max(clip.times) < end - start
    whole = media.read_waveform(levels)
    part = whole[round(start * RATE) : round(end * RATE)]
    assert len(clip.waveform) == len(part)
    assert np.abs(clip.waveform.astype(int) - part).max() < 400


@pytest.mark.parametrize("start", [0.0, 0.5, 1.5, 2.5, 13.0])
def test_a_transport_stream_has_no_index_and_is_read_all_the_same(levels, tmp_path, start):
    source = levels
    if start > 10:  # one key frame for all of 16 s
        source = tmp_path / "long.mp4"
        sound = clips.click(16, 14, RATE)
        media.write_clip(source, clips.level_frames(56), fps=3.5, waveform=sound, sample_rate=RATE)
    path = clips.remux(source, tmp_path / "a.ts")
    whole, part = decode(path, frame_rate=10), decode(path, frame_rate=10, start=start, end=start + 1)
    grid = [time for time in whole.times if start + 0.1 < time < start + 0.8]
    assert len(grid) > 2
    for time in grid:
        frame = clips.level_of(whole.frames[whole.times.index(time)])
        picture, shown = media.read_frame(path, time + 0.01)
        assert (clips.level_of(picture), shown) == (frame, pytest.approx(time, abs=1e-3))
        assert frame in [clips.level_of(kept) for kept in part.frames]
    first, rate = round(start * RATE), RATE
    for waveform in (part.waveform, media.read_waveform(path, start=start, end=start + 1)):
        assert len(waveform) == rate
        assert np.abs(waveform.astype(int) - whole.waveform[first : first + rate]).max() < 400


def test_a_frame_shown_for_long_is_kept_once(tmp_path):
    path = tmp_path / "one.mp4"
    media.write_clip(path, clips.level_frames(1), fps=25, waveform=clips.tone(3), sample_rate=RATE)
    clip = decode(path)
    assert clip.times == [0.0] and clip.key == 0 and len(clip.waveform) == pytest.approx(3 * RATE, abs=500)
    slow = tmp_path / "slow.mp4"
    media.write_clip(slow, clips.level_frames(4), fps=1, waveform=clips.tone(4), sample_rate=RATE)
    assert [clips.level_of(frame) for frame in decode(slow).frames] == [0, 1, 2, 3]


def test_all_channels_are_mixed_down(tmp_path):
    for channel in (0, 1, 2, 4, 5):
        sound = np.zeros((RATE, 6), np.float32)
        sound[:, channel] = clips.tone(1)
        path = tmp_path / f"{channel}.mp4"
        media.write_clip(path, clips.moving_frames(5), fps=5, waveform=sound, sample_rate=RATE)
        assert clips.streams_of(path)["audio"]["channels"] == 6
        assert np.abs(media.read_waveform(path).astype(int)).max() > 1000, f"channel {channel} is not heard"


def test_a_rotated_clip_comes_upright(tmp_path):
    path = tmp_path / "phone.mp4"
    frame = np.zeros((96, 128, 3), np.uint8)
    frame[:, :64] = (200, 0, 0)  # red on the left goes to the top
    media.write_clip(path, [frame] * 5, fps=5, waveform=clips.tone(1), sample_rate=RATE)
    clips.tag_rotation(path, clips.CLOCKWISE)
    assert clips.streams_of(path)["video"]["rotation"] == 270
    shown, clip = media.read_frame(path)[0], decode(path, short_side=48)
    assert shown.shape == (128, 96, 3) and clip.frames[0].shape == (64, 48, 3) and clip.size == (96, 128)
    for picture in (shown, clip.frames[0]):
        height = len(picture)
        assert picture[: height // 2 - 4, :, 0].mean() > 150 and picture[height // 2 + 4 :, :, 0].mean() < 30


def test_scaled_down_but_never_up():
    assert media.scaled_size(1280, 720, 256) == (455, 256)
    assert media.scaled_size(576, 720, 256) == (256, 320)
    assert media.scaled_size(100, 50, 256) == (100, 50)


def test_written_clips_are_the_same_bytes_whatever_was_in_memory(tmp_path):
    code = "import sys; from tests import clips; clips.clip(clips.Path(sys.argv[1]), size=(98, 130))"
    written = []
    for filling in ("0", "85", "170"):  # what the C library fills fresh memory with
        path = tmp_path / f"{filling}.mp4"
        environment = os.environ | {"MALLOC_PERTURB_": filling}
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", code, path], check=True, env=environment, cwd=root)
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize(
    ("frame", "waveform", "said"),
    [
        (np.zeros((48, 65, 3), np.uint8), None, "frames are 65 x 48, H.264 needs even numbers"),
        (np.full((48, 64, 3), 200.0), None, r"a frame is float64 of shape \(48, 64, 3\), not uint8"),
        (
            np.zeros((48, 64), np.uint8),
            None,
            r"a frame is uint8 of shape \(48, 64\), not uint8 of \(48, 64, 3\)",
        ),
        (np.zeros((48, 64, 3), np.uint8), np.full(9000, np.nan, np.float32), "its sound is not finite"),
        (np.zeros((48, 64, 3), np.uint8), np.zeros(9000, np.int32), "its sound is int32"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, frame, waveform, said):
    with pytest.raises(MediaError, match=said) as caught:
        media.write_clip(tmp_path / "odd.mp4", [frame], fps=5, waveform=waveform, sample_rate=RATE)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


NOT_UTF_8 = pytest.param(
    os.fsdecode(b"caf\xe9.mp4"),
    marks=pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not UTF-8"),
)


@pytest.mark.parametrize("name", ["-dash.mp4", "a:colon.mp4", "ü space.mp4", NOT_UTF_8])
def test_awkward_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    clips.clip(Path(name), 1.0)
    assert list(clips.streams_of(Path(name))) == ["video", "audio"]
    assert len(media.read_waveform(Path(name))) > 15000 and not media.is_picture(Path(name))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sound_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    sound = clips.tone(1.0)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    assert len(media.read_waveform(tmp_path / "a.wav")) == RATE
    sound[RATE // 2] = value
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    for read in (media.read_waveform, clips.read_track):
        error = _error_of(read, tmp_path / "a.wav")
        assert "no numbers" in str(error) and error.reason == media.UNDECODABLE


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_sound_files(tmp_path, kind):
    path = tmp_path / f"sound.{kind}"
    sound = clips.tone(1.0, rate=32000)
    soundfile.write(path, np.stack([sound, 0.5 * sound], 1), 32000)
    waveform = media.read_waveform(path)
    assert len(waveform) == pytest.approx(RATE, abs=1500)
    assert np.abs(waveform[4000:12000].astype(int)).max() == pytest.approx(0.375 * 32768, rel=0.05)


def test_a_wav_at_the_asked_rate_is_read_exactly(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000, np.int16)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    np.testing.assert_array_equal(media.read_waveform(tmp_path / "a.wav"), samples)


def broken_files(folder: Path) -> dict[str, Path]:
    good = clips.clip(folder / "good.mp4", 2.0)
    data = good.read_bytes()
    contents = {
        "empty": b"",
        "text": b"I am not a clip.\n" * 100,
        "playlist": b"#EXTM3U\n#EXTINF:10,\ngood.mp4\n#EXT-X-ENDLIST\n",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n",
        "noise": np.random.default_rng(0).bytes(5000),
        "cut": data[: len(data) // 2],
        "zeros": bytes(5000),
    }
    for name, content in contents.items():
        (folder / f"{name}.mp4").write_bytes(content)
    return {name: folder / f"{name}.mp4" for name in contents}


@pytest.mark.parametrize("read", [media.describe_container, media.read_frame, media.read_waveform, decode])
def test_unusable_files_say_so_in_one_clean_error(tmp_path, capfd, read):
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(media.UnusableMedia) as caught:
            read(path)
        assert str(path) in caught.value.message and "\n" not in caught.value.message, name
        assert caught.value.reason == media.UNDECODABLE
    assert "git lfs pull" in _error_of(read, tmp_path / "lfs.mp4").hint
    assert "does not exist" in _error_of(read, tmp_path / "absent.mp4").message
    assert "is a folder" in _error_of(read, tmp_path).message
    assert capfd.readouterr() == ("", "")


def playlists_of(target: str) -> dict[str, bytes]:
    hls = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n%b#EXTINF:1,\n%b\n#EXT-X-ENDLIST\n"
    concat = b"ffconcat version 1.0\n%bfile %b\n"
    return {  # a byte that no text has takes a file past the check for text
        f"{kind}{ending}": text % (comment, target.encode())
        for kind, comment in (("text", b""), ("binary", b"#\x01\n"))
        for ending, text in ((".m3u8", hls), (".ffconcat", concat))
    }


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """The paths that a server on this machine was asked for; the first entry is its address."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        paths.append(f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, daemon=True).start()
        yield paths
        server.shutdown()


@pytest.mark.parametrize("read", [media.describe_container, media.read_frame, media.read_waveform, decode])
def test_playlists_are_refused_and_not_followed(tmp_path, asked, read):
    clips.remux(clips.clip(tmp_path / "whole.mp4", 1.0), tmp_path / "part.ts")
    assert "video" in clips.streams_of(tmp_path / "part.ts")
    for target in ("part.ts", f"{asked[0]}/part.ts"):
        for name, content in playlists_of(target).items():
            (tmp_path / name).write_bytes(content)
            assert _error_of(read, tmp_path / name).reason == media.UNDECODABLE, f"{name} of {target}"
    assert len(asked) == 1


def test_a_picture_named_like_a_row_of_pictures_is_read_alone(tmp_path):
    for name, width in (("%d", 64), ("0", 32), ("1", 32)):
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((48, width, 3), np.uint8))
    assert clips.streams_of(tmp_path / "%d.png")["video"]["width"] == 64


@pytest.mark.parametrize(
    "read", [media.describe_container, media.read_frame, media.read_waveform, media.read_image, decode]
)
def test_only_regular_files_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "fifo.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.mp4"))
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    for kind in ("fifo", "socket", "device"):
        error = _error_of(read, tmp_path / f"{kind}.mp4")
        assert error.reason == media.UNDECODABLE and error.hint
        assert f"is a {kind.replace('fifo', 'pipe')}, a file is needed" in error.message


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp", "ppm", "gif", "jp2", "hdr"])
def test_pictures_are_told_by_their_content_as_opencv_tells_them(tmp_path, ending):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = tmp_path / f"x.{ending}"
    if not cv2.haveImageWriter(str(path)):
        pytest.skip("OpenCV was built without it")
    assert cv2.imwrite(str(path), picture.astype(np.float32) if ending == "hdr" else picture)
    path.rename(tmp_path / "x.mp4")
    assert media.is_picture(tmp_path / "x.mp4") and cv2.haveImageReader(str(tmp_path / "x.mp4"))


def test_clips_and_sounds_are_no_pictures(levels, tmp_path):
    soundfile.write(tmp_path / "a.wav", clips.tone(1), RATE)
    found = [clips.remux(levels, tmp_path / f"a.{ending}") for ending in ("mkv", "ts")]
    assert not any(media.is_picture(path) for path in (levels, tmp_path / "a.wav", *found))


def _error_of(read, path: Path) -> MediaError:
    with pytest.raises(MediaError) as caught:
        read(path)
    return caught.value


def test_a_missing_stream_is_named(tmp_path):
    mute = tmp_path / "mute.mp4"
    media.write_clip(mute, clips.moving_frames(5), fps=5, waveform=None, sample_rate=RATE)
    soundfile.write(tmp_path / "sound.wav", clips.tone(1), RATE)
    for read in (media.read_waveform, decode):
        error = _error_of(read, mute)
        assert (error.reason, error.message) == (media.NO_SOUND, f"{mute} has no sound track")
    for read in (media.read_frame, decode):
        assert _error_of(read, tmp_path / "sound.wav").reason == media.NO_VIDEO
    assert list(clips.streams_of(tmp_path / "sound.wav")) == ["audio"]
    assert media.describe_container(tmp_path / "sound.wav")["duration"] == pytest.approx(1)


def test_a_clip_cut_short_gives_what_is_left(levels, tmp_path, capfd):
    whole = clips.remux(clips.clip(tmp_path / "whole.mp4", 10.0), tmp_path / "whole.mkv")
    cut = tmp_path / "cut.mkv"
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    clip = decode(cut)
    assert 3 < max(clip.times) < 8 and 3 * RATE < len(clip.waveform) < 8 * RATE
    assert clip.duration == pytest.approx(max(*clip.times, len(clip.waveform) / RATE), abs=0.6)
    assert capfd.readouterr().err == ""


def test_images_come_upright_in_three_channels(tmp_path):
    red = np.zeros((40, 60, 3), np.uint8)
    red[:20] = (0, 0, 220)  # BGR: the upper half is red
    jpeg = cv2.imencode(".jpg", red)[1].tobytes()
    orientation = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + orientation
    (tmp_path / "turned.jpg").write_bytes(
        jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    )
    turned = media.read_image(tmp_path / "turned.jpg")
    assert turned.shape == (60, 40, 3)
    assert (
        turned[:, 25:, 0].mean() > 180 and turned[:, :15].mean() < 30
    )  # a quarter turn clockwise: red on the right
    for name, picture in {"grey": red[..., 2], "alpha": np.dstack([red, red[..., 2]])}.items():
        (tmp_path / f"{name}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        image = media.read_image(tmp_path / f"{name}.png")
        assert image.shape == (40, 60, 3) and image.dtype == np.uint8
        assert image[:20, :, 0].min() == 220
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(MediaError, match=r"bad\.png cannot be decoded as a picture"):
        media.read_image(tmp_path / "bad.png")


def test_a_mask_keeps_its_values(tmp_path):
    mask = np.zeros((10, 12), np.uint8)
    mask[2:5, 3:7] = 2
    (tmp_path / "mask.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    np.testing.assert_array_equal(media.read_mask(tmp_path / "mask.png")[0], mask)
    palette = Image.fromarray(mask, mode="P")
    palette.putpalette([37, 0, 0, 74, 0, 0, 111, 0, 0])
    palette.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(media.read_mask(tmp_path / "mask.png")[0], mask)
    Image.fromarray(mask == 2).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(media.read_mask(tmp_path / "mask.png")[0], np.uint8(255) * (mask == 2))
    Image.fromarray(mask.astype(np.uint16)).save(tmp_path / "mask.png")
    with pytest.raises(media.UnusableMedia, match="not an 8-bit mask but I;16"):
        media.read_mask(tmp_path / "mask.png")


SOFT = cv2.GaussianBlur(np.pad(np.full((24, 24), 255, np.uint8), 20), (0, 0), 3)
SHARP = np.where(SOFT >= 128, 255, 0).astype(np.uint8)


def in_colour(*levels: int) -> np.ndarray:
    """Two halves of the sharp mask in two colours, BGR."""
    one, two = levels[:3], levels[3:]
    halves = np.where((np.arange(64) < 32)[:, None], np.array(one), np.array(two))
    return np.where(SHARP[..., None] > 0, halves[None], 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "picture", "wanted", "said"),
    [
        ("soft.png", SOFT, SHARP, media.SOFT_MASK),
        ("soft.jpg", SOFT, SHARP, media.SOFT_MASK),
        ("sharp.jpg", SHARP, SHARP, media.SOFT_MASK),
        ("grey.jpg", cv2.merge([SOFT] * 3), SHARP, media.SOFT_MASK),
        ("sharp.png", SHARP, SHARP, ""),
        ("numbers and a border.png", np.where(SHARP, 3, 255), np.where(SHARP, 3, 255), ""),
        ("blue is the class.png", in_colour(255, 0, 0, 255, 0, 0), SHARP, ""),
        ("number in blue.png", in_colour(2, 0, 0, 5, 0, 0), in_colour(2, 0, 0, 5, 0, 0)[..., 0], ""),
        ("colours.png", in_colour(128, 0, 0, 0, 64, 0), SHARP, media.COLOURED_MASK),
    ],
)
def test_a_mask_of_another_form_covers_what_it_should(name, picture, wanted, said, tmp_path):
    quality = [cv2.IMWRITE_JPEG_QUALITY, 90] if name.endswith("jpg") else []
    end = name[-4:]
    (tmp_path / name).write_bytes(cv2.imencode(end, picture.astype(np.uint8), quality)[1].tobytes())
    mask, found = media.read_mask(tmp_path / name)
    union, same = ((mask > 0) | (wanted > 0)).sum(), ((mask > 0) & (wanted > 0)).sum()
    assert found == said and same / union > (0.98 if end == ".jpg" else 0.9999)
    assert end == ".jpg" or np.array_equal(mask, wanted)


@pytest.mark.parametrize("picture", [np.where(SHARP, 2, 0), in_colour(255, 0, 0, 0, 255, 0)])
def test_a_jpeg_of_numbers_or_colours_is_no_mask(picture, tmp_path):
    (tmp_path / "m.jpg").write_bytes(cv2.imencode(".jpg", picture.astype(np.uint8))[1].tobytes())
    with pytest.raises(media.UnusableMedia, match="not exact in one"):
        media.read_mask(tmp_path / "m.jpg")


@clips.needs_test_data
def test_odd_clips():
    odd = clips.TEST_DATA / "odd_clips"
    assert decode(odd / "portrait.mp4").frames[0].shape == (320, 256, 3)
    assert clips.streams_of(odd / "surround_5_1.mp4")["audio"]["channels"] == 6
    assert np.abs(media.read_waveform(odd / "surround_5_1.mp4").astype(int)).max() > 500
    assert len(decode(odd / "one_video_frame.mp4").frames) == 1
    assert clips.streams_of(odd / "seven_fps.mp4")["video"]["fps"] == pytest.approx(7.29, abs=0.01)
    with pytest.raises(MediaError, match="no sound track"):
        decode(odd / "no_audio_track.mp4")
