"""Maps over a whole clip: as a video of it with its own sound, or alone."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from avtool.features import upsampled
from avtool.files import write_numpy
from avtool.predict import WINDOWS_AT_ONCE, batched
from avtool.progress import progress_bar
from avtool.report.heatmap import labelled, overlay
from avtool.tasks.localize.controls import OWN, LocalizationResult, Sounds
from avtool.whole import Shown, WholeClip

MAPS = ".npz"


def over_all(whole: WholeClip, sounds: Sounds, out: Path, *, every: float) -> LocalizationResult:
    """Write the maps of a clip, one ``every`` so many seconds, as .npz, or its video under them. They come first, as
    the scale of their colours is only known then: for a video the clip is decoded twice."""
    times, parts = list[float](), list[dict[str, np.ndarray]]()
    with progress_bar("localize", total=None, unit="maps") as bar:
        for some in batched(whole.frames(1 / every), WINDOWS_AT_ONCE):
            moments = [one.time for one in some]
            parts.append(sounds.maps([one.view for one in some], [*map(whole.heard, moments)], moments))
            times += moments
            bar.advance(len(some))
    whole.say_where_sound_ends()
    maps = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found = sounds.result(maps, times)
    if out.suffix.lower() == MAPS:
        arrays: dict[str, Any] = {"times": found.times, **maps, **whole.names()}
        arrays |= {"map": found.kind, "warning": found.warning}
        write_numpy(out, partial(np.savez_compressed, **arrays))
        return found
    seen = whole.frames(whole.fps())
    first = next(seen)
    whole.write(out, _pictures(found, chain([first], seen)), start=first.time)
    return found


def _pictures(found: LocalizationResult, frames: Iterable[Shown]) -> Iterator[np.ndarray]:
    """The frames under the maps of each sound, abreast, which are blended from one time to the next."""
    own = found.maps[OWN]
    scale = own.min(), own.max()
    with progress_bar("video", total=None, unit="frames") as bar:
        for shown_frame in frames:
            place = np.interp(shown_frame.time, found.times, np.arange(len(found.times)))
            before = int(place)
            after, share = min(before + 1, len(own) - 1), place - before
            panels = []
            for name, maps in found.maps.items():
                heat = (1 - share) * maps[before] + share * maps[after]
                frame = shown_frame.frame
                panel = overlay(frame, upsampled(heat[None], frame.shape[:2])[0], scale)
                panels.append(labelled(panel, name) if len(found.maps) > 1 else panel)
            yield np.concatenate(panels, axis=1)
            bar.advance(1)
