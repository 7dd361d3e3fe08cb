"""Running a model on one's own clips: which model is meant, and clips as it takes them, window by window."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from avtool.checkpoint import load_model
from avtool.clip import PICTURE, SOUND, Clip, Window
from avtool.commands import Failures, print_json
from avtool.config.checkpoint import Config, read_model_config
from avtool.data.tree import KINDS, SUFFIXES, VIDEO
from avtool.devices import resolve_device
from avtool.errors import AvtoolError, CheckpointError, MediaError, UsageError, explain
from avtool.features import LogMel, blank_frames, inputs_of, silence
from avtool.inputs import SHORT_SIDE, shown, whole_crop
from avtool.media import Picture
from avtool.places import find_model, run_of
from avtool.progress import say, warn
from avtool.registry import TASKS
from avtool.tracking import read_run_facts

WINDOWS_AT_ONCE = 16
LARGEST_INPUT = 1 << 26
"""Pixels of a frame, cells of a spectrogram, or samples (an hour): models are three orders of magnitude below."""
Failed = Callable[[Path, AvtoolError], None]
"""Told of a clip that could not be used, and why."""
Compute = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]
"""Results (W, ...) by name of a model with the frames (W, 3, H, W') and log-mels (W, 1, mels, frames) of windows."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Chosen:
    """The model that is meant: its ``checkpoint`` folder, config.json and ``device``. Its weights are loaded when they
    are first asked for, so that clips are looked at before."""

    checkpoint: Path
    config: Config
    device: torch.device

    @cached_property
    def _loaded(self) -> tuple[nn.Module, LogMel]:
        return load_model(self.checkpoint, device=self.device)[:2]

    @property
    def module(self) -> nn.Module:
        """All of the model, on the device."""
        return self._loaded[0]

    @property
    def log_mel(self) -> LogMel:
        """Its spectrogram."""
        return self._loaded[1]

    def inputs(self, images: Sequence[np.ndarray], sounds: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """B frames uint8 (3, rows, columns) and sounds int16 (N,) as it takes them: (B, 3, H, W) and (B, 1, mels,
        frames), float32."""
        views = {"image": np.stack(images), "waveform": np.stack(sounds)}
        batch = {name: torch.from_numpy(value).to(self.device) for name, value in views.items()}
        return inputs_of(self.log_mel, batch)

    def view(self, picture: Picture) -> np.ndarray:
        """All of a frame as it is seen: uint8 (3, rows, columns), squeezed to the model's size."""
        return shown(picture.rgb(SHORT_SIDE), self.config.image_size, whole_crop)

    def moment(self, clip: Clip, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A ``clip``'s frame at ``time`` seconds, uint8 (H, W, 3) RGB, its ``view``, and its sound then, (N,) int16."""
        sound = clip.sound_around(time, count=self.config.window, rate=self.config.rate)
        picture = clip.fresh_frame(time)
        return picture.rgb(), self.view(picture), sound

    def check_finite(self, values: Tensor, what: str) -> Tensor:
        """The ``values`` it gives, which are called ``what``. CheckpointError where one is not finite."""
        if not values.isfinite().all():
            raise CheckpointError(
                f"{self.checkpoint} gives {what} that are not finite", hint="use an earlier checkpoint"
            )
        return values


def choose_model(model: Path | Chosen | None, *, device: torch.device, task: str | None = None) -> Chosen:
    """What ``model`` (None: see ``avtool.places.find_model``) means, once it is said which it is, where it was found
    and what it was trained on; what is chosen already stays so. AvtoolError where it cannot be used, or is no model of
    ``task``."""
    if isinstance(model, Chosen):
        if task is not None:
            TASKS[task].check_kind(model.config, model.checkpoint, otherwise=", or another --model")
        return model
    checkpoint, found = find_model(model)
    say(f"model {checkpoint} (from {found})")
    config = read_model_config(checkpoint)
    say(f"  {config.origin}{_trained_on(checkpoint)}")
    if task is not None:
        TASKS[task].check_kind(config, checkpoint, otherwise=", or another --model")
    check_size(config, checkpoint)
    return Chosen(checkpoint, config, device)


def _trained_on(checkpoint: Path) -> str:
    """Number, place and sum of the clips that the run of a checkpoint was trained on, as far as its run.json says."""
    run = run_of(checkpoint)
    try:
        data = read_run_facts(run).get("data") if run is not None else None
    except CheckpointError as error:
        warn(error.message)  # the weights are no worse for it
        return ""
    if not isinstance(data, dict) or not {"trained_on", "folder", "checksum"} <= data.keys():
        return ""
    return (
        f"; trained on {data['trained_on']} clips of {data['folder']}, checksum {str(data['checksum'])[:12]}"
    )


class Computed(NamedTuple):
    """What was computed of a clip: ``times`` float64 (W, 2) of its windows, ``results`` float32 (W, ...) by name.
    ``lacks``: "picture" or "sound" where it has none, else ""."""

    clip: Path
    times: np.ndarray
    results: dict[str, np.ndarray]
    lacks: str


@dataclass(frozen=True)
class Clips:
    """Videos, or one picture with the sound file ``audio``, for one model. ``every``: see ``Clip.windows``. ``alone``:
    pictures without sound, and sounds without a picture, are clips as well, with the other one blank.

    A clip that cannot be used is told to ``failed`` and left out, or its error raised where that is None.
    """

    clips: Sequence[Path]
    audio: Path | None
    every: float | None
    failed: Failed | None
    alone: bool = False

    def __post_init__(self) -> None:
        if self.audio is not None and len(self.clips) != 1:
            raise UsageError(
                f"--audio goes with one picture or clip, not with {len(self.clips)}", hint="name one clip"
            )

    def compute(self, chosen: Chosen, compute: Compute) -> Iterator[Computed]:
        """What ``compute`` gives of each clip, one after the other. The weights are loaded once the first clip is found
        to be usable. CheckpointError where a result is not finite."""
        config = chosen.config
        for path in self.clips:
            times: list[tuple[float, float]] = []
            parts: list[dict[str, np.ndarray]] = []
            try:
                with Clip(path, self.audio, alone=self.alone) as clip:
                    windows = clip.windows(
                        self.every, size=config.image_size, count=config.window, rate=config.rate
                    )
                    for some in batched(windows, WINDOWS_AT_ONCE):
                        times += [window.times for window in some]
                        parts.append(_computed(chosen, some, compute, clip.lacks))
            except (MediaError, UsageError, OSError) as error:
                tell(self.failed, path, error)
                continue
            found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            yield Computed(path, np.array(times), found, clip.lacks)


def tell(failed: Failed | None, clip: Path, error: Exception) -> None:
    """Tell ``failed`` of what is wrong with ``clip``; raise it where that is None, or where it is no such error."""
    known = explain(error)
    if failed is None or known is None:
        raise error
    failed(clip, known)


def each(
    clips: Sequence[Path],
    run: Callable[..., Item],
    *,
    out: Path,
    ending: str,
    model: Path | None,
    device: str,
    failed: Failed,
    **options: Any,
) -> Iterator[tuple[Path, Item]]:
    """What ``run(clip, out=..., model=..., **options)`` gives of each of several clips, and where: in the folder
    ``out``, under the clip's name with another ``ending``. All share one model. A clip that cannot be used is told to
    ``failed`` and left out. UsageError where two clips have one name, or ``out`` is a file."""
    if out.suffix or out.is_file():
        raise UsageError(
            f"--out {out} is one file, and there are {len(clips)} clips",
            hint=f"name a folder for what is made of each: --out {out.with_suffix('')}",
        )
    names: dict[str, Path] = {}
    for clip in clips:
        if (before := names.setdefault(f"{clip.stem}{ending}", clip)) is not clip:
            raise UsageError(
                f"{before} and {clip} would both become {out / clip.stem}{ending}",
                hint="do them one after the other, into folders of their own",
            )
    chosen = choose_model(model, device=resolve_device(device))
    for name, clip in names.items():
        try:
            found = run(clip, out=out / name, model=chosen, device=device, **options)
        except (MediaError, UsageError, OSError) as error:
            tell(failed, clip, error)
        else:
            yield out / name, found


def on_clips(
    clips: Sequence[Path],
    run: Callable[..., Item],
    *,
    out: Path,
    ending: str,
    one: Mapping[str, Path | None],
    show: Callable[[Path, Item], None],
    as_dict: Callable[[Path, Item], dict[str, Any]] | None = None,
    **options: Any,
) -> None:
    """A command on clips: ``run(clip, out=..., **options)`` of one, or as ``each`` does it of several, or of the videos
    in folders; ``one``: the options by name that go with one clip alone. What is found is told by ``show``, or as
    JSON as ``as_dict`` has it."""
    given = clips_in(clips)
    if len(given) == 1:
        found = run(given[0], out=out, **options)
        if as_dict:
            print_json(as_dict(out, found))
        else:
            show(out, found)
        return
    failures = Failures(given, one)
    done = each(given, run, out=out, ending=ending, failed=failures.tell, **options)
    if as_dict:
        print_json({"clips": [as_dict(*of_clip) for of_clip in done], "failed": failures.found})
    else:
        for of_clip in done:
            show(*of_clip)
    failures.leave()


def clips_in(paths: Sequence[Path]) -> list[Path]:
    """``paths``, and in place of a folder the videos that lie in it, by name. UsageError where there is none."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        videos = [one for one in inside if one == path or KINDS.get(one.suffix[1:].lower()) == VIDEO]
        if not videos:
            raise UsageError(
                f"{path} holds no video",
                hint=f"it has to lie there itself, as NAME.{SUFFIXES[VIDEO].replace(' ', ', .')}",
            )
        found += videos
    return found


@torch.no_grad()
def _computed(
    chosen: Chosen, windows: Sequence[Window], compute: Compute, lacks: str
) -> dict[str, np.ndarray]:
    image, audio = chosen.inputs([one.image for one in windows], [one.waveform for one in windows])
    image = blank_frames(image) if lacks == PICTURE else image
    results = compute(chosen.module, image, silence(audio) if lacks == SOUND else audio)
    return {
        name: chosen.check_finite(value, "numbers").float().cpu().numpy() for name, value in results.items()
    }


def batched(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one shorter."""
    while part := list(islice(items, size)):
        yield part


def check_size(config: Config, checkpoint: Path) -> None:
    """CheckpointError where config.json asks for an input that no model takes, before memory is asked for it."""
    sizes = {"image_size": config.image_size, "audio_size": config.model.audio_size}
    largest = max(config.window, *(math.prod(size) for size in sizes.values()))
    if largest > LARGEST_INPUT:
        asked = ", ".join(f"model.{key} = {list(size)}" for key, size in sizes.items())
        raise CheckpointError(
            f"{checkpoint / 'config.json'} asks for an input of {largest:,} numbers: {asked}, "
            f"spectrogram.hop = {config.spectrogram.hop}",
            hint="take an undamaged copy, or correct that file",
        )
