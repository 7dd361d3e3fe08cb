"""The page of a clip: its video with what tasks found in it as layers, its spectrogram, its sources to hear."""

import io
import math
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import soundfile
import torch

from avtool.clip import PICTURE, SOUND, Clip
from avtool.errors import DataError, UsageError
from avtool.features import LogMel, to_float_waveform
from avtool.files import printable
from avtool.html import data_url, render
from avtool.media import Form, write_clip
from avtool.pages.outputs import Output, Outputs, read_outputs
from avtool.report.heatmap import FAINT, STRONG, coloured
from avtool.report.overlay import TINT, palette
from avtool.report.paint import loudest
from avtool.report.pictures import FLOOR, spectrogram
from avtool.tasks.localize.controls import OWN, controls_of
from avtool.tasks.localize.maps import words_of
from avtool.tasks.separate.predict import GUIDED, MASKS_PNG, MIXTURE, OTHER, REST
from avtool.whole import VIDEO, aac_rate, even_frames, slower

LONGEST = 180.0
"""Seconds of a clip at most, as all of it is in the page."""
SIDE, CRF = 360, 26
"""The video's short side at most, and how strongly it is compressed (23 is x264's usual)."""
STILL_RATE = 4
"""Frames a second of a video of a picture."""
TILES, TILE_SIDE = 400, 112
"""Maps of a layer at most, and pixels of their longer side."""
SPECTROGRAM = (1200, 150)
_BESIDE = {VIDEO: "video/mp4", ".png": "image/png"}
_NOT_SOUNDS = {"times", "clip", "sound", "model", "map", "warning"}
_SOURCES = {
    GUIDED: "what belongs to the picture",
    REST: "the rest",
    OTHER: "what belongs to the other clip",
    MIXTURE: "both clips mixed",
}


def clip_page(folder: Path) -> str:
    """The page of what tasks wrote of one clip into ``folder`` (see ``read_outputs``); videos and pictures that lie
    there beside it are shown as well. AvtoolError where something is missing or broken, or the clip is too long."""
    outputs = read_outputs(folder)
    with Clip(outputs.clip, outputs.sound, alone=True) as clip:
        _check_length(clip, max([clip.duration, *(file.duration() for file in clip.timed)]))
        media = _media(clip)
    maps = [_maps(one) for one in outputs.maps]
    beside = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _BESIDE and path.resolve() != outputs.clip
    ]
    layers = [*chain.from_iterable(maps), *map(_masks, outputs.masks)]
    for number, layer in enumerate(layers):
        layer["number"] = number
    return render(
        "clip",
        name=printable(outputs.clip.name),
        sound=printable(outputs.sound.name) if outputs.sound else "",
        video=data_url(media.video, "video/mp4"),
        ratio=media.ratio,
        spectrogram=data_url(media.spectrogram, "image/png") if media.spectrogram else "",
        layers=layers,
        labels=[_labels(one) for one in outputs.classes],
        separated=[_separated(one) for one in outputs.separated],
        beside=[(path.name, data_url(path.read_bytes(), _BESIDE[path.suffix.lower()])) for path in beside],
        facts=_facts(outputs, folder),
    )


def _check_length(clip: Clip, seconds: float) -> None:
    if seconds > LONGEST:
        raise UsageError(
            f"{printable(clip.path)} lasts {seconds:.0f} s or more: a page holds at most {LONGEST:.0f} s, for all of "
            "it is in the page",
            hint=f"cut a part (ffmpeg -i CLIP -t {LONGEST:.0f} part.mp4) and run the tasks on that",
        )


class _Media(NamedTuple):
    """A clip for a page: ``video`` of H.264 and AAC, width over height of its frames, and its ``spectrogram`` from its
    first moment to its last, a PNG (empty where it has no sound)."""

    video: bytes
    ratio: float
    spectrogram: bytes


def _media(clip: Clip) -> _Media:
    sounds, rate, kept = [], 16000, 16000
    if clip.lacks != SOUND:
        kept = aac_rate(clip)
        sounds = [one.waveform()[0] for one in clip.whole_sounds(Form(rate), Form(kept))]
    fps = STILL_RATE if clip.still or clip.lacks == PICTURE else slower(clip.file.frame_rate())
    frames = _frames(clip, fps)
    (frame, start), shown = next(frames), 1

    def counted() -> Iterator[np.ndarray]:
        nonlocal shown
        yield frame
        for shown, (one, _) in enumerate(frames, start=2):  # noqa: B007 - how many there were
            yield one

    with tempfile.TemporaryDirectory() as temporary:
        path, sound = Path(temporary) / "clip.mp4", sounds[1] if sounds else None
        write_clip(path, counted(), fps=fps, waveform=sound, sample_rate=kept, crf=CRF, start=start)
        video = path.read_bytes()
    ratio = round(frame.shape[1] / frame.shape[0], 4)
    if not sounds:
        return _Media(video, ratio, b"")
    log_mel = LogMel(sample_rate=rate)
    heard = np.pad(sounds[0], (0, max(0, log_mel.n_fft - len(sounds[0]))))
    mels = log_mel(to_float_waveform(torch.from_numpy(heard)[None]))[0, 0].numpy()
    lasts = max(start + shown / fps, len(heard) / rate)
    missing = max(0, round(lasts * rate / log_mel.hop) - mels.shape[1])
    mels = np.pad(mels, ((0, 0), (0, missing)), constant_values=FLOOR)
    return _Media(video, ratio, _png(spectrogram(mels, *SPECTROGRAM, peak=loudest(mels))))


def _frames(clip: Clip, fps: float) -> Iterator[tuple[np.ndarray, float]]:
    """Frames of the page's video and when each is seen; black where the clip has no picture."""
    if clip.still is None and clip.lacks != PICTURE:
        for _, frame, time in even_frames(clip, fps, SIDE):
            _check_length(clip, time)  # headers may say less
            yield frame, time
        return
    frame = clip.still.rgb(SIDE) if clip.still else np.zeros((SIDE // 2, SIDE, 3), np.uint8)
    height, width = (side - side % 2 for side in frame.shape[:2])
    for k in range(max(1, math.ceil(clip.duration * fps))):
        yield frame[:height, :width], k / fps


def _png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 (H, W, 3 or 4), RGB or RGBA, as PNG."""
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    return cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(pixels), order))[1].tobytes()


def _layer(output: Output, pictures: np.ndarray, kept: np.ndarray, **more: Any) -> dict[str, Any]:
    """A layer of ``pictures`` uint8 (T, H, W, 4), of those times that are ``kept``: in one picture, row by row, each
    with its border doubled, for browsers blend what is enlarged with what lies beside it."""
    rows, columns = pictures.shape[1:3]
    pictures = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    count, height, width, _ = pictures.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    filled = np.pad(pictures, ((0, across * down - count), (0, 0), (0, 0), (0, 0)))
    grid = filled.reshape(down, across, height, width, 4).swapaxes(1, 2).reshape(down * height, -1, 4)
    times = output.content["times"][kept].round(3).tolist()
    source = data_url(_png(grid), "image/png")
    return {"src": source, "across": across, "rows": rows, "columns": columns, "times": times, **more}


def _kept(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of maps or masks (T, H, W) are shown, and these, no larger than a page needs."""
    kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), TILES)).astype(int))
    step = math.ceil(max(values.shape[1:]) / TILE_SIDE)
    return kept, values[kept, ::step, ::step]


def _maps(output: Output) -> list[dict[str, Any]]:
    """Layers of the maps of each sound in one scale, the clip's own first, with what the maps do with it."""
    maps = {name: values for name, values in output.content.items() if name not in _NOT_SOUNDS}
    if OWN not in maps or any(values.ndim != 3 or not values.size for values in maps.values()):
        raise DataError(
            f"{printable(output.path)} holds no maps of {OWN}", hint="write it again with localize"
        )
    low, high = float(maps[OWN].min()), float(maps[OWN].max())
    controls = controls_of(maps)
    layers = []
    for name, values in maps.items():
        kept, few = _kept(values)
        level = ((few - low) / (high - low or 1)).clip(0, 1)
        alpha = np.rint(255 * (FAINT + (STRONG - FAINT) * level)).astype(np.uint8)
        colours = coloured(level.reshape(-1, level.shape[2])).reshape(*level.shape, 3)
        pictures = np.concatenate([colours, alpha[..., None]], axis=3)
        said = {"title": f"heat map, {output.path.name}", "sound": name, "own": name == OWN, "smooth": True}
        said |= {
            "marked": controls[name].marked,
            "moved": controls[name].moved,
            "alone": len(maps) == 1,
            "legend": [],
        }
        said |= {"file": output.path.name, "warning": str(output.content["warning"])}
        layers.append(_layer(output, pictures, kept, **said))
    return layers


def _masks(output: Output) -> dict[str, Any]:
    """The layer of masks, with the colour of each class that is in them."""
    names = output.content["names"].tolist()
    kept, few = _kept(output.content["masks"])
    colours = palette(max(2, len(names)))
    alpha = np.where(few > 0, round(255 * TINT), 0).astype(np.uint8)
    pictures = np.concatenate([colours[few], alpha[..., None]], axis=3)
    there = [k for k in np.unique(few).tolist() if k]
    legend = [(names[k], "#{:02x}{:02x}{:02x}".format(*colours[k].tolist())) for k in there]
    said = {
        "title": f"masks, {output.path.name}",
        "own": True,
        "smooth": False,
        "legend": legend,
        "warning": "",
    }
    return _layer(output, pictures, kept, **said)


def _labels(output: Output) -> dict[str, Any]:
    """The likeliest classes of the clip, and of each window."""

    def named(top: list[dict[str, Any]], count: int) -> str:
        return ", ".join(f"{one['class']} {100 * one['probability']:.0f} %" for one in top[:count])

    windows = [
        {"start": one["start"], "end": one["end"], "text": named(one["top"], 3)}
        for one in output.content["windows"]
    ]
    top, lacks = output.content["top"], output.content["lacks"]
    return {"title": f"classes, {output.path.name}", "top": top, "windows": windows, "lacks": lacks}


def _separated(output: Output) -> dict[str, Any]:
    """The sources of a folder that ``separate`` wrote, as FLAC, in one loudness."""
    folder, sounds = output.path.parent, dict[str, tuple[np.ndarray, int]]()
    for name in _SOURCES:
        path = folder / f"{name}.wav"
        if path.is_file():
            sounds[name] = soundfile.read(path, dtype="float32", always_2d=True)
        elif name in (GUIDED, REST) or output.content["with"]:
            raise DataError(f"{printable(path)} is missing", hint="separate the clip again with --force")
    loudest_of = max(1.0, *(float(np.abs(sound).max(initial=0)) for sound, _ in sounds.values()))
    sources = []
    for name, (sound, rate) in sounds.items():
        coded = io.BytesIO()
        soundfile.write(coded, sound / loudest_of, rate, format="FLAC", subtype="PCM_16")
        sources.append((f"{name}.wav", _SOURCES[name], data_url(coded.getvalue(), "audio/flac")))
    masks = folder / MASKS_PNG
    picture = data_url(masks.read_bytes(), "image/png") if masks.is_file() else ""
    return {"title": folder.name, "sources": sources, "picture": picture, "sdr": output.content["sdr"]}


def _facts(outputs: Outputs, folder: Path) -> list[tuple[str, str]]:
    """Which model wrote what."""
    told = []
    for one in (*outputs.maps, *outputs.masks, *outputs.separated):
        words = [f"model {printable(str(one.content['model']))}"]
        words += [words_of(str(one.content["map"]))] if one in outputs.maps else []
        words += [f"guided by the box {one.content['box']}"] if one.content.get("box") else []
        told.append((str(one.path.relative_to(folder)), "; ".join(words)))
    return told
