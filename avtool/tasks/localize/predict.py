"""Where its sound comes from, in a frame or in all of a clip: the Python API behind ``avtool localize``."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from avtool.clip import Clip
from avtool.devices import resolve_device
from avtool.errors import UsageError
from avtool.features import upsampled
from avtool.files import check_output, printable, write_numpy
from avtool.predict import Chosen, choose_model
from avtool.report.heatmap import abreast, render_heatmap, write_png
from avtool.tasks.localize.controls import OWN, LocalizationResult, Sounds, in_words
from avtool.tasks.localize.maps import EVERY, words_of
from avtool.tasks.localize.video import MAPS, over_all
from avtool.whole import VIDEO, WholeClip, check_moves

PICTURE = ".png"
STEP = 0.5
"""Seconds from one map of a whole clip to the next."""


def localize(
    clip: Path,
    *,
    out: Path = Path("heatmap.png"),
    audio: Path | None = None,
    model: Path | Chosen | None = None,
    at: float | None = None,
    every: float | None = None,
    map: str | None = None,
    raw: Path | None = None,
    controls: bool = False,
    other: Path | None = None,
    device: str = "auto",
    force: bool = False,
) -> LocalizationResult:
    """Show where the sound of ``clip`` comes from.

    ``clip`` is a video, or a picture with the sound file ``audio``; with a video, ``audio`` takes the place of its own
    sound. ``out`` ending in .png: one frame, ``at`` so many seconds from the start (None: the middle), under its map,
    for which the sound around it is heard, as long as the model was trained on, moved to lie inside the clip and
    reflected where the clip is shorter; ``raw``: also write that map, float32 (H, W) of the frame, as .npy: what the
    picture shows before it is scaled to its colours. ``out`` ending in .mp4: the whole clip under its maps, one
    ``every`` so many seconds (None: ``STEP``) and blended between them, all in one scale, with its own sound as one
    channel; ending in .npz: these maps alone, with their ``times``, the kind of ``map``, what speaks against it
    (``warning``), and where ``clip``, ``sound`` and ``model`` lie.

    ``map``: a kind in ``avtool.tasks.localize.maps.EVERY`` (None: the model's own). ``controls``: beside it the map of
    the same with silence and with the sound of the file ``other`` (None: white noise as loud), and how they differ.
    ``model``: a run, checkpoint or converted folder (None: see ``avtool.places.find_model``), or what ``choose_model``
    gave.

    The clip is looked at before any weights are loaded, and nothing is written before all is computed but a video,
    which appears when it is whole. Raises AvtoolError where the clip, the model or an output cannot be used.
    """
    controls = controls or other is not None
    kind = out.suffix.lower()
    if kind not in (PICTURE, VIDEO, MAPS):
        raise UsageError(
            f"--out {out} is named neither {PICTURE}, {VIDEO} nor {MAPS}",
            hint=f"--out {out.with_suffix(PICTURE)}, or --out {out.with_suffix(VIDEO)} for the whole clip",
        )
    if kind == PICTURE:
        _refuse({"--every": every}, f"--out {out} shows one frame", out.with_suffix(VIDEO))
    else:
        _refuse({"--at": at, "--raw": raw}, f"--out {out} is of the whole clip", out.with_suffix(PICTURE))
    check_output(out, force=force, others=(clip, audio, other))
    if raw is not None:
        check_output(raw, force=force, option="--raw", suffix=".npy", others=(clip, audio, other, out))
    if map is not None and map not in EVERY:
        raise UsageError(f"there is no map {map!r}", hint=f"choose one of {', '.join(EVERY)}")
    target = resolve_device(device)
    with Clip(clip, audio) as source:
        time = source.time(at)
        if kind != PICTURE:
            check_moves(source, out)
            whole = WholeClip(source, choose_model(model, device=target))
            sounds = Sounds(whole.chosen, map, controls=controls, other=other)
            return over_all(whole, sounds, out, every=every or STEP)
        chosen = choose_model(model, device=target)
        frame, seen, waveform = chosen.moment(source, time)
    sounds = Sounds(chosen, map, controls=controls, other=other)
    found = sounds.result(sounds.maps([seen], [waveform], [time]), [time])
    heats = {
        name: upsampled(maps, frame.shape[:2])[0].astype(np.float32) for name, maps in found.maps.items()
    }
    if raw is not None:
        write_numpy(raw, partial(np.save, arr=heats[OWN]))
    sound = f", sound of {audio.name}" if audio is not None else ""
    lines = f"{clip.name} at {time:.2f} s{sound}", words_of(found.kind), f"model {found.model}"
    write_png(out, _picture(frame, heats, found, [printable(line) for line in lines]))
    return replace(found, frame=frame, map=heats[OWN])


def _picture(
    frame: np.ndarray, heats: dict[str, np.ndarray], found: LocalizationResult, lines: list[str]
) -> np.ndarray:
    """The frame under the maps of each sound, side by side and in one scale, with ``lines`` and what they do."""
    captions = {name: [in_words(name, control)] for name, control in found.controls.items()}
    captions[OWN] = [*lines, *captions.get(OWN, [])]
    scale = heats[OWN].min(), heats[OWN].max()
    warned = {OWN: found.warning}
    pictures = [
        render_heatmap(frame, heat, caption=captions[name], warning=warned.get(name, ""), scale=scale)
        for name, heat in heats.items()
    ]
    return abreast(pictures)


def _refuse(options: dict[str, object], why: str, better: Path) -> None:
    """UsageError where one of ``options`` is given, which ``why`` says nothing to."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} says nothing where {why}", hint=f"leave it out, or --out {better}")
