"""What a clip holds: which objects are in view, and which of them, or of others, sound.

Of version 1 every clip has one source or two, and silent objects beside them. Of version 2 every clip has one of the
``SCENARIOS``, with two to four objects in view:

- ``one source``: one of them sounds
- ``two sources``: two of different kinds sound
- ``same class``: two of one kind and two of another are in view, and one of the first two sounds. Nothing tells which:
  the truth is both of them
- ``off-screen``: one of them sounds, and with it an object of a kind that is not in view
- ``silence``: nothing sounds, every sample is 0
- ``not in view``: only an object of a kind that is not in view sounds

The last two are of the test clips alone: who learns from clips takes it that what sounds is in view.
"""

from typing import NamedTuple

import numpy as np

from avtool.data.synth.objects import LOOKS

KINDS = tuple(LOOKS)
SOUNDING = ("one source", "two sources", "same class", "off-screen")
SCENARIOS = (*SOUNDING, "silence", "not in view")


class Cast(NamedTuple):
    """``seen``: kind and voice (0: silent) of each object in view, those that sound first; ``unseen``: the kinds of
    what sounds out of view; ``scenario`` is "" in version 1."""

    split: str
    seen: list[tuple[str, int]]
    unseen: tuple[str, ...] = ()
    scenario: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The kinds of what sounds, in the order of the voices."""
        return (*dict.fromkeys(kind for kind, voice in self.seen if voice), *self.unseen)


def cast_of(seed: int, clip: int, version: int = 1, rng: np.random.Generator | None = None) -> Cast:
    """The cast of clip number ``clip``; ``rng``: the clip's own stream, where more is drawn from it.

    Every fifth clip is a test clip; classes and scenarios take turns within each split, so that they are balanced."""
    rng = np.random.default_rng([seed, clip, 0]) if rng is None else rng
    block, part = divmod(clip, 5)
    split, number = ("test", block) if part == 4 else ("train", block * 4 + part)

    def turn(count: int, purpose: int) -> int:
        order = np.random.default_rng([seed, number // count, split == "test", purpose]).permutation(count)
        return int(order[number % count])

    first, scenario = turn(len(KINDS), 1), ""
    if version == 1:
        voices = 2 if rng.random() < 0.25 else 1
    else:
        scenarios = SCENARIOS if split == "test" else SOUNDING
        scenario = scenarios[turn(len(scenarios), 2)]
        voices = {"two sources": 2, "silence": 0, "not in view": 0}.get(scenario, 1)
    count = int(rng.integers(max(voices + 1, 2), 5))
    others = rng.permutation(np.delete(np.arange(len(KINDS)), first))
    kinds = [KINDS[k] for k in (first, *others)]
    if scenario == "same class":
        return Cast(split, [(kinds[0], 1)] * 2 + [(kinds[1], 0)] * 2, (), scenario)
    if scenario == "not in view":
        return Cast(split, [(kind, 0) for kind in kinds[1 : count + 1]], (kinds[0],), scenario)
    seen = [(kind, j + 1 if j < voices else 0) for j, kind in enumerate(kinds[:count])]
    return Cast(split, seen, (kinds[count],) if scenario == "off-screen" else (), scenario)
