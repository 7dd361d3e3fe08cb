"""What of a clip's sound belongs to its picture: the Python API behind ``avtool separate``."""

import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from avtool.clip import Clip
from avtool.devices import resolve_device
from avtool.errors import UsageError
from avtool.features import LogMel, to_float_waveform
from avtool.files import atomic_folder, check_output, printable, write_json
from avtool.inputs import SHORT_SIDE, centre_crop, fit_window, shown, whole_crop, window_starts
from avtool.media import AS_IT_IS, Form, Picture, Track
from avtool.metrics.separation import bss_eval
from avtool.predict import Chosen, choose_model
from avtool.progress import progress_bar
from avtool.report.heatmap import write_png
from avtool.report.pictures import Panel, render_masks

GUIDED, OTHER, REST, MIXTURE = "guided", "other", "rest", "mixture"
MASKS_PNG, FACTS_JSON = "masks.png", "separation.json"
SOUND_FILES = (".wav", ".flac", ".mp3", ".ogg")
ANOTHER = "choose a video with sound for --with"
WINDOWS_AT_ONCE = 8
STRETCH = 1 << 21
"""Samples of a channel that masks are applied to at once."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SeparationResult:
    """What ``separate`` wrote. ``sounds``: float32 (N, C) by name at ``rate`` samples a second, full scale 1.0, which
    sum to the clip's own sound (with another clip: to the mixture). ``masks`` float32 (mels, frames) by name.
    ``sdr``: of mixed clips, by name, the SDR in dB of what was found and of the mixture itself."""

    sounds: dict[str, np.ndarray]
    rate: int
    masks: dict[str, np.ndarray]
    files: list[Path]
    model: Path
    sdr: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Guide:
    """One source: ``clip`` whose pictures guide, or the one ``picture`` that does so all the time. ``frame`` uint8
    (H, W, 3) is drawn for it, and where that is a ``boxed`` part of a picture, all of it is seen."""

    name: str
    clip: Clip
    frame: np.ndarray
    picture: Picture | None
    boxed: bool = False

    def seen(self, time: float, size: tuple[int, int]) -> np.ndarray:
        """What the model sees at ``time`` seconds, as evaluation shows it: uint8 (3, rows, columns)."""
        picture = self.picture or self.clip.frame(time)
        return shown(picture.rgb(SHORT_SIDE), size, whole_crop if self.boxed else centre_crop)


def separate(
    clip: Path,
    *,
    out: Path,
    box: Box | None = None,
    other: Path | None = None,
    audio: Path | None = None,
    at: float | None = None,
    model: Path | Chosen | None = None,
    device: str = "auto",
    force: bool = False,
) -> SeparationResult:
    """Write into the folder ``out`` what of the sound of ``clip`` belongs to its picture, ``guided.wav``, what is left,
    ``rest.wav``, a picture of the masks, ``masks.png``, and what was done, ``separation.json``.

    ``clip`` is a video, or a picture with the sound file ``audio``. Each window of a longer clip is guided by the frame
    in its middle, or all by the frame ``at`` seconds, of which the square in the middle is seen, as in evaluation;
    ``box`` (x1, y1, x2, y2 as fractions of that frame, the middle one unless said) guides by its crop. With ``other``,
    the sound of that clip is mixed in, as loud as it is, and found again by its own picture: ``other.wav``, and
    ``mixture.wav``.

    The files have the clip's own rate, channels and length, as 32-bit float, so that nothing is clipped: ``rest.wav``
    takes what the model's band and masks leave over, and they sum to the sound there was. The clip is looked at before
    any weights are loaded, and nothing is written before all is computed. ``model`` as of ``choose_model``. AvtoolError
    where something cannot be used.
    """
    if out.suffix.lower() in SOUND_FILES:
        raise UsageError(
            f"--out {printable(out)} has the name of a sound file: several files are written, into a folder",
            hint=f"--out {printable(out.with_suffix(''))}",
        )
    check_output(out, force=force, markers=(FACTS_JSON,))
    if box is not None and other is not None:
        raise UsageError("--box and --with do not go together", hint="leave one of them out")
    target = resolve_device(device)
    with ExitStack() as files:
        clips = [files.enter_context(Clip(clip, audio))]
        time = clips[0].time(at)
        if other is not None:
            clips.append(files.enter_context(Clip(other, way_out=ANOTHER)))
            if clips[1].sound_path.samefile(clips[0].sound_path):
                raise UsageError(
                    f"--with {printable(other)} has the very sound of the clip: there is nothing to tell apart",
                    hint="name another clip",
                )
        chosen = choose_model(model, device=target, task="separate")
        heard, tracks = _sounds(clips, chosen.config.rate)
        guides = [_guide(GUIDED, clips[0], time, box, fixed=at is not None)]
        guides += [_guide(OTHER, one, one.time(None), None) for one in clips[1:]]
        masks = window_masks(chosen, heard.sum(axis=0, dtype=np.float32), guides)
    track, log_mel = tracks[0], chosen.log_mel
    masks = _shared(chosen.check_finite(masks, "masks"))
    mixture = np.stack([one.samples for one in tracks]).sum(axis=0)
    sources = masked_track(log_mel, mixture, masks, rate=track.rate)
    sounds = {guide.name: source for guide, source in zip(guides, sources, strict=True)}
    sounds[REST] = mixture - sources.sum(axis=0)
    written = {**sounds, MIXTURE: mixture} if other is not None else sounds
    result = SeparationResult(
        sounds={name: np.ascontiguousarray(sound.T) for name, sound in sounds.items()},
        rate=track.rate,
        masks={guide.name: mask.cpu().numpy() for guide, mask in zip(guides, masks, strict=True)},
        files=[*(out / f"{name}.wav" for name in written), out / MASKS_PNG, out / FACTS_JSON],
        model=chosen.checkpoint,
        sdr=_sdr(guides, tracks, mixture, sources) if other is not None else {},
    )
    picture = _picture(result, guides, log_mel, heard)
    transposed = {name: sound.T for name, sound in written.items()}
    _write(out, transposed, track.rate, picture, _facts(result, guides, box))
    return result


def _guide(name: str, clip: Clip, time: float, box: Box | None, *, fixed: bool = False) -> _Guide:
    """The source of ``clip``, guided by its frame at ``time`` seconds where that is ``fixed`` or there is a ``box``.
    UsageError where the box does not lie in the frame."""
    picture = clip.fresh_frame(time)
    frame = picture.rgb()
    if box is not None:
        part = cropped_to(frame, box)
        return _Guide(name, clip, part, Picture(part), boxed=True)
    return _Guide(name, clip, frame, picture if fixed or clip.still is not None else None)


def cropped_to(frame: np.ndarray, box: Box) -> np.ndarray:
    """The part of a frame (H, W, 3) in ``box``, x1, y1, x2, y2 as fractions of it: at least a pixel. UsageError where
    there is no such part."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = box
    text = ",".join(f"{value:g}" for value in box)
    if not all(0 <= value <= 1 for value in box):
        of_sides = list(zip(box, (width, height, width, height), strict=True))
        hint = "x1,y1,x2,y2 are fractions of the frame, from 0 to 1"
        if all(float(value).is_integer() and 0 <= value <= side for value, side in of_sides):
            asked = ",".join(f"{value / side:.3g}" for value, side in of_sides)
            hint += f"; these pixels of {width} x {height} are --box {asked}"
        raise UsageError(f"--box {text} reaches outside the frame", hint=hint)
    if not (x1 < x2 and y1 < y2):
        raise UsageError(
            f"--box {text} has nothing in it: its right or lower edge is not beyond the left or upper one",
            hint=f"--box {min(x1, x2):g},{min(y1, y2):g},{max(x1, x2):g},{max(y1, y2):g}"
            if x1 != x2 and y1 != y2
            else "x1,y1,x2,y2 with x1 < x2 and y1 < y2",
        )
    left, top = min(int(x1 * width), width - 1), min(int(y1 * height), height - 1)
    right, bottom = max(left + 1, round(x2 * width)), max(top + 1, round(y2 * height))
    return frame[top:bottom, left:right]


def _fitted(track: Track, to: Track) -> Track:
    """``track`` cut, or filled up with silence, to the length of another."""
    length = to.samples.shape[1]
    samples = np.zeros((to.samples.shape[0], length), np.float32)
    samples[:, : track.samples.shape[1]] = track.samples[:, :length]
    return Track(samples, to.rate, to.layout)


def _sounds(clips: Sequence[Clip], rate: int) -> tuple[np.ndarray, list[Track]]:
    """What the model hears of each source, mono at its ``rate``, int16 (S, N), and all channels of it; of the first
    one's length and channels. MediaError where there is nothing to hear."""
    sounds, tracks = list[np.ndarray](), list[Track]()
    for clip in clips:
        form = Form(tracks[0].rate, tracks[0].layout, "flt") if tracks else AS_IT_IS
        mono, own = clip.whole_sounds(Form(rate), form)
        track, sound = own.track(clip.sound_path), mono.waveform()[0]
        tracks.append(_fitted(track, tracks[0]) if tracks else track)
        sounds.append(sound[: len(sounds[0])] if sounds else sound)
        clip.check_heard(sounds[-1], rate, hint="choose a clip with sound")
    heard = np.zeros((len(sounds), len(sounds[0])), np.int16)
    for row, sound in zip(heard, sounds, strict=True):
        row[: len(sound)] = sound
    return heard, tracks


@torch.no_grad()
def window_masks(chosen: Chosen, heard: np.ndarray, guides: Sequence[_Guide]) -> Tensor:
    """Masks (S, mels, frames) of the sound ``heard`` (N,) in units of int16, one a guide, from windows that overlap by
    half and fade into each other."""
    hop, rate = chosen.log_mel.hop, chosen.log_mel.sample_rate
    width = chosen.config.window // hop
    frames = max(1, len(heard) // hop)
    starts = window_starts(frames, width, width / 2, whole=True)
    parts: list[list[Tensor]] = [[] for _ in guides]
    with progress_bar("separating", total=len(starts), unit="windows", brief=True) as bar:
        for first in range(0, len(starts), WINDOWS_AT_ONCE):
            some = starts[first : first + WINDOWS_AT_ONCE]
            windows = [fit_window(heard[start * hop : (start + width) * hop], width * hop) for start in some]
            middles = [(start + min(width, frames) / 2) * hop / rate for start in some]
            for guide, part in zip(guides, parts, strict=True):
                images = [guide.seen(middle, chosen.config.image_size) for middle in middles]
                part.extend(chosen.module(*chosen.inputs(images, windows))[:, 0].float().sigmoid())
            bar.advance(len(some))
    return torch.stack([cross_fade(found, starts, frames) for found in parts])


def cross_fade(windows: Sequence[Tensor], starts: Sequence[int], frames: int) -> Tensor:
    """One mask (mels, frames) from ``windows`` (mels, W) that begin at frames ``starts``, each weighted by a triangle
    where they overlap: at its borders a window counts next to nothing, so that there are no seams."""
    width = windows[0].shape[1]
    ramp = torch.arange(width, device=windows[0].device)
    weight = torch.minimum(ramp + 1, width - ramp).float()
    total = windows[0].new_zeros(len(windows[0]), max(frames, width))
    weights = total.new_zeros(total.shape[1])
    for window, start in zip(windows, starts, strict=True):
        total[:, start : start + width] += weight * window
        weights[start : start + width] += weight
    return (total / weights)[:, :frames]


def _shared(masks: Tensor) -> Tensor:
    """Masks (S, mels, frames) that claim no more than there is: where they add up to more than 1, in proportion."""
    return masks / masks.sum(dim=0, keepdim=True).clamp(min=1)


def masked_track(log_mel: LogMel, samples: np.ndarray, masks: Tensor, *, rate: int) -> np.ndarray:
    """Sound (C, N) at ``rate`` through masks (S, mels, frames): float32 (S, C, N). A channel and a stretch of it at a
    time; stretches overlap by more than a spectrum reaches, so that where they meet nothing is to be heard."""
    hop = max(1, round(log_mel.hop * rate / log_mel.sample_rate))
    around, stretch = 8 * hop * -(-log_mel.n_fft // log_mel.hop), -(-STRETCH // hop) * hop
    found = np.zeros((len(masks), *samples.shape), np.float32)
    for channel, sound in enumerate(samples):
        for start in range(0, len(sound), stretch):
            begin, end = max(0, start - around), min(len(sound), start + stretch + around)
            piece = torch.from_numpy(sound[begin:end])[None].to(masks.device)
            kept = log_mel.masked(piece, masks[None], rate=rate, start=begin // hop)[0, :, start - begin :][
                :, :stretch
            ]
            found[:, channel, start : start + stretch] = kept.cpu().numpy()
    return found


def _sdr(
    guides: Sequence[_Guide], tracks: Sequence[Track], mixture: np.ndarray, sources: np.ndarray
) -> dict[str, tuple[float, float]]:
    """SDR in dB, by source, of what was found and of the mixture itself, all channels' mean."""
    truth = torch.from_numpy(np.stack([one.samples.mean(axis=0) for one in tracks]))[None]
    itself = torch.from_numpy(mixture.mean(axis=0)).expand_as(truth[0])
    rivals = torch.stack([torch.from_numpy(sources.mean(axis=1)), itself])[None]
    sdr = bss_eval(truth, rivals).sdr[0].T.tolist()
    return {guide.name: (found, floor) for guide, (found, floor) in zip(guides, sdr, strict=True)}


def _picture(
    result: SeparationResult, guides: Sequence[_Guide], log_mel: LogMel, heard: np.ndarray
) -> np.ndarray:
    total = torch.from_numpy(heard.sum(axis=0, dtype=np.float32))[None].to(log_mel.filters.device)
    mel = log_mel(to_float_waveform(total))[0, 0].cpu().numpy()
    panels = [
        Panel(
            f"{guide.name}.wav, by the picture of {printable(guide.clip.path.name)}",
            guide.frame,
            result.masks[guide.name][:, : mel.shape[1]],
        )
        for guide in guides
    ]
    panels.append(Panel(f"{REST}.wav", None, 1 - np.sum([panel.mask for panel in panels], axis=0)))
    names = " + ".join(printable(guide.clip.path.name) for guide in guides)
    return render_masks(
        mel,
        panels,
        title=f"what is heard: {names}",
        seconds=heard.shape[1] / log_mel.sample_rate,
        highest=log_mel.sample_rate / 2,
        caption=[f"model {printable(result.model)}"],
    )


def _facts(result: SeparationResult, guides: Sequence[_Guide], box: Box | None) -> dict[str, Any]:
    """What separation.json says."""
    return {
        "clip": printable(guides[0].clip.path),
        "sound": printable(guides[0].clip.sound_path),
        "with": printable(guides[1].clip.path) if len(guides) > 1 else None,
        "box": box,
        "model": printable(result.model),
        "rate": result.rate,
        "sdr": {name: {"found": found, "mixture": floor} for name, (found, floor) in result.sdr.items()},
    }


def _write(
    out: Path, sounds: dict[str, np.ndarray], rate: int, picture: np.ndarray, facts: dict[str, Any]
) -> None:
    with atomic_folder(out) as partial:
        for name, sound in sounds.items():
            content = io.BytesIO()  # so that any path will do, and a full disk is an OSError with its reason
            soundfile.write(content, sound, rate, format="WAV", subtype="FLOAT")
            data = bytearray(content.getvalue())
            peak = data.index(b"PEAK")  # a chunk that says when it was written: equal sounds, equal bytes
            data[peak + 12 : peak + 16] = bytes(4)
            (partial / f"{name}.wav").write_bytes(data)
        write_png(partial / MASKS_PNG, picture)
        write_json(partial / FACTS_JSON, facts)
