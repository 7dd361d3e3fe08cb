"""What of a clip's sound belongs to its picture: the Python API behind ``avtool separate``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avtool.clip import Clip
from avtool.devices import resolve_device
from avtool.errors import UsageError
from avtool.features import LogMel, to_float_waveform
from avtool.files import atomic_folder, check_output, nearest_parent, printable, write_json
from avtool.inputs import SHORT_SIDE, centre_crop, fit_window, shown, whole_crop, window_starts
from avtool.media import AS_IT_IS, Form, Picture, Sound, UnusableMedia
from avtool.metrics.separation import bss_eval
from avtool.predict import Chosen, choose_model
from avtool.progress import progress_bar
from avtool.report.heatmap import write_png
from avtool.report.pictures import Panel, render_masks
from avtool.tasks.separate.sounds import read_sound, sound_writers

GUIDED, OTHER, REST, MIXTURE = "guided", "other", "rest", "mixture"
MASKS_PNG, FACTS_JSON = "masks.png", "separation.json"
WAV = ".wav"
SOUND_FILES = (WAV, ".flac", ".mp3", ".ogg")
ANOTHER = "choose a video with sound for --with"
WINDOWS_AT_ONCE = 8
STRETCH = 1 << 21
"""Samples of a channel that are in memory, and that masks are applied to, at once."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SeparationResult:
    """What ``separate`` wrote: ``files``, in which sounds have ``rate`` samples a second. ``masks`` float32 (mels,
    frames) by name. ``sdr``: of mixed clips, by name, the SDR in dB of what was found and of the mixture itself."""

    rate: int
    masks: dict[str, np.ndarray]
    files: list[Path]
    model: Path
    sdr: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def sounds(self) -> dict[str, np.ndarray]:
        """What was found, read from the files: float32 (N, C) by name, full scale 1.0, which sum to the clip's own
        sound (with another clip: to the mixture)."""
        names = [file for file in self.files if file.stem in (*self.masks, REST) and file.suffix == WAV]
        return {file.stem: read_sound(file) for file in names}


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
    takes what the model's band and masks leave over, and they sum to the sound there was. They are written piece by
    piece, and the sound waits on the disk of ``out``: of a long clip only what the model hears is in memory, and with
    ``other`` one channel of each sound. The clip is looked at before any weights are loaded, and the folder appears
    when it is whole. ``model`` as of ``choose_model``. AvtoolError where something cannot be used.
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
        heard, voices = _sounds(clips, chosen.config.rate, nearest_parent(out))
        guides = [_guide(GUIDED, clips[0], time, box, fixed=at is not None)]
        guides += [_guide(OTHER, one, one.time(None), None) for one in clips[1:]]
        masks = window_masks(chosen, heard.sum(axis=0, dtype=np.float32), guides)
    masks = _shared(chosen.check_finite(masks, "masks"))
    names = [*(guide.name for guide in guides), REST, *[MIXTURE] * (other is not None)]
    result = SeparationResult(
        rate=voices[0].rate,
        masks={guide.name: mask.cpu().numpy() for guide, mask in zip(guides, masks, strict=True)},
        files=[*(out / f"{name}{WAV}" for name in names), out / MASKS_PNG, out / FACTS_JSON],
        model=chosen.checkpoint,
    )
    picture = _picture(result, guides, chosen.log_mel, heard)
    with atomic_folder(out) as partial:
        with sound_writers(partial, names, rate=result.rate, channels=voices[0].channels) as write:
            sdr = _apply(chosen.log_mel, voices, masks, write)
        result = replace(result, sdr=dict(zip(result.masks, sdr, strict=False)))
        write_png(partial / MASKS_PNG, picture)
        write_json(partial / FACTS_JSON, _facts(result, guides, box))
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


def _sounds(clips: Sequence[Clip], rate: int, spool: Path) -> tuple[np.ndarray, list[Sound]]:
    """What the model hears of each source, mono at its ``rate``, int16 (S, N) as long as the first one, and all of it
    at the rate and with the channels of the first one, kept in the folder ``spool``. MediaError where there is nothing
    to hear."""
    heard, voices = np.zeros((len(clips), 0), np.int16), list[Sound]()
    for row, clip in enumerate(clips):
        form = Form(voices[0].rate, voices[0].layout, "flt") if voices else AS_IT_IS
        mono, own = clip.whole_sounds(Form(rate), form._replace(spool=spool))
        if not own.count:
            raise UnusableMedia(f"{clip.sound_path}: none of its sound can be decoded")
        sound = mono.waveform()[0]
        heard = heard if voices else np.zeros((len(clips), len(sound)), np.int16)
        voices.append(own)
        clip.check_heard(sound[: heard.shape[1]], rate, hint="choose a clip with sound")
        heard[row, : len(sound)] = sound[: heard.shape[1]]
    return heard, voices


@torch.no_grad()
def window_masks(chosen: Chosen, heard: np.ndarray, guides: Sequence[_Guide]) -> Tensor:
    """Masks (S, mels, frames) of the sound ``heard`` (N,) in units of int16, one a guide, from windows that overlap by
    half and fade into each other."""
    hop, rate = chosen.log_mel.hop, chosen.log_mel.sample_rate
    width = chosen.config.window // hop
    frames = max(1, len(heard) // hop)
    starts = window_starts(frames, width, width / 2, whole=True)
    fades = [CrossFade(chosen.log_mel.mels, width, max(frames, width), chosen.device) for _ in guides]
    with progress_bar("separating", total=len(starts), unit="windows", brief=True) as bar:
        for first in range(0, len(starts), WINDOWS_AT_ONCE):
            some = starts[first : first + WINDOWS_AT_ONCE]
            windows = [fit_window(heard[start * hop : (start + width) * hop], width * hop) for start in some]
            middles = [(start + min(width, frames) / 2) * hop / rate for start in some]
            for guide, fade in zip(guides, fades, strict=True):
                images = [guide.seen(middle, chosen.config.image_size) for middle in middles]
                masks = chosen.module(*chosen.inputs(images, windows))[:, 0].float().sigmoid()
                for start, mask in zip(some, masks, strict=True):
                    fade.add(start, mask)
            bar.advance(len(some))
    return torch.stack([fade.mask() for fade in fades])[..., :frames]


class CrossFade:
    """One mask of ``mels`` by ``frames`` from windows that are ``width`` wide, each weighted by a triangle where they
    overlap: at its borders a window counts next to nothing, so that there are no seams."""

    def __init__(self, mels: int, width: int, frames: int, device: torch.device) -> None:
        ramp = torch.arange(width, device=device)
        self.weight = torch.minimum(ramp + 1, width - ramp).float()
        self.weights = torch.zeros(frames, device=device)
        self.total = torch.zeros(mels, frames, device=device)

    def add(self, start: int, window: Tensor) -> None:
        """The window (mels, width) that begins at frame ``start``."""
        inside = slice(start, start + len(self.weight))
        self.total[:, inside] += self.weight * window
        self.weights[inside] += self.weight

    def mask(self) -> Tensor:
        """The mask (mels, frames) of all windows."""
        return self.total / self.weights


def _shared(masks: Tensor) -> Tensor:
    """Masks (S, mels, frames) that claim no more than there is: where they add up to more than 1, in proportion."""
    return masks / masks.sum(dim=0, keepdim=True).clamp(min=1)


def masked_pieces(
    log_mel: LogMel, read: Callable[[int, int], np.ndarray], count: int, masks: Tensor, *, rate: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sound (C, ``count``) at ``rate``, of which ``read`` gives float32 samples from one to another, and what masks (S,
    mels, frames) leave of it: float32 (C, n) and (S, C, n), a stretch at a time. Stretches overlap by more than a
    spectrum reaches, so that where they meet nothing is to be heard."""
    hop = max(1, round(log_mel.hop * rate / log_mel.sample_rate))
    around, stretch = 8 * hop * -(-log_mel.n_fft // log_mel.hop), -(-STRETCH // hop) * hop
    for start in range(0, count, stretch):
        begin, end = max(0, start - around), min(count, start + stretch + around)
        sound, inside = read(begin, end), slice(start - begin, min(start + stretch, count) - begin)
        found = [
            log_mel.masked(
                torch.from_numpy(one)[None].to(masks.device), masks[None], rate=rate, start=begin // hop
            )
            for one in sound
        ]
        yield (
            sound[:, inside],
            np.stack([of_channel[0, :, inside].cpu().numpy() for of_channel in found], axis=1),
        )


def _apply(
    log_mel: LogMel, voices: Sequence[Sound], masks: Tensor, write: Callable[[Sequence[np.ndarray]], None]
) -> list[tuple[float, float]]:
    """Give ``write`` what ``masks`` leave of the mixture of ``voices``, the rest of it and of several the mixture, each
    (C, n), piece by piece. Of several, returns the SDR in dB of what was found and of the mixture itself, of all
    channels' mean."""
    several, found, itself = len(voices) > 1, list[np.ndarray](), list[np.ndarray]()

    def mixture_of(first: int, last: int) -> np.ndarray:
        return np.stack([voice.samples(first, last) for voice in voices]).sum(axis=0)

    pieces = masked_pieces(log_mel, mixture_of, voices[0].count, masks, rate=voices[0].rate)
    for mixture, sources in pieces:
        write([*sources, mixture - sources.sum(axis=0), *[mixture] * several])
        if several:
            found.append(sources.mean(axis=1))
            itself.append(mixture.mean(axis=0))
    return _sdr(voices, np.concatenate(found, axis=1), np.concatenate(itself)) if several else []


def _sdr(voices: Sequence[Sound], found: np.ndarray, itself: np.ndarray) -> list[tuple[float, float]]:
    """SDR in dB, by source, of what was ``found`` (S, N) and of the mixture ``itself`` (N,), of all channels' mean."""
    count = len(itself)
    starts = range(0, count, STRETCH)
    means = [
        [voice.samples(start, min(start + STRETCH, count)).mean(axis=0) for start in starts]
        for voice in voices
    ]
    truth = torch.from_numpy(np.stack([np.concatenate(parts) for parts in means]))[None]
    rivals = torch.stack([torch.from_numpy(found), torch.from_numpy(itself).expand_as(truth[0])])[None]
    return [(one, floor) for one, floor in bss_eval(truth, rivals).sdr[0].T.tolist()]


def _picture(
    result: SeparationResult, guides: Sequence[_Guide], log_mel: LogMel, heard: np.ndarray
) -> np.ndarray:
    mel = _log_mel_of(log_mel, heard)
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


def _log_mel_of(log_mel: LogMel, heard: np.ndarray) -> np.ndarray:
    """The log-mel float32 (mels, frames) of all sounds int16 (S, N) together, of a stretch at a time."""
    hop = log_mel.hop
    around, stretch = hop * -(-log_mel.n_fft // hop), hop * -(-STRETCH // hop)
    parts = []
    for start in range(0, heard.shape[1], stretch):
        begin = max(0, start - around)
        total = heard[:, begin : start + stretch + around].sum(axis=0, dtype=np.float32)
        sound = torch.from_numpy(total)[None].to(log_mel.filters.device)
        found = log_mel(to_float_waveform(sound))[0, 0, :, (start - begin) // hop :]
        parts.append(found[:, : stretch // hop].cpu().numpy())
    return np.concatenate(parts, axis=1)


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
