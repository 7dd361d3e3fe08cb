"""Parts of a split by recording: what is held out to choose a checkpoint on, and folds.

Clips of one recording (the same sound file, the same video) never lie on both sides.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from avtool.data.dataset import PreparedDataset


def recordings(dataset: PreparedDataset, clips: Iterable[int]) -> tuple[list[str], list[int]]:
    """What each of ``clips`` was recorded in, and its first label: clips that share a recording are not independent."""
    return [dataset.recording(int(i)) for i in clips], [dataset.label_id(int(i)) for i in clips]


def labelled(
    dataset: PreparedDataset, clips: np.ndarray | None = None, *, several: bool = False
) -> tuple[np.ndarray, dict[str, int]]:
    """Those of ``clips`` (None: all) that have exactly one label, or with ``several`` at least one, int64 (N,); and how
    many do not, by reason."""
    clips = np.arange(len(dataset)) if clips is None else clips
    counts = np.array([len(dataset.record(int(i)).label_ids) for i in clips], int)
    left_out = {"without a label": int((counts == 0).sum())}
    if not several:
        left_out["with several labels"] = int((counts > 1).sum())
    fits = counts >= 1 if several else counts == 1
    return clips[fits], {reason: count for reason, count in left_out.items() if count}


def ranks(names: Sequence[str], labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of every clip, the rank of its recording among those of its class, and how many there are: int64 (N,) each.

    ``names`` of recordings and first ``labels``. The order within a class is that of a hash of the name: it looks
    random, and does not depend on what else there is but for the rank.
    """
    of_class: dict[int, set[str]] = defaultdict(set)
    home: dict[str, int] = {}
    for name, label in zip(names, labels, strict=True):
        of_class[home.setdefault(name, label)].add(name)
    rank = {}
    for members in of_class.values():
        for number, name in enumerate(
            sorted(members, key=lambda name: hashlib.sha256(name.encode()).digest())
        ):
            rank[name] = number, len(members)
    pairs = np.array([rank[name] for name in names], np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def held_out(names: Sequence[str], labels: Sequence[int], share: float) -> np.ndarray:
    """Which clips are held out, bool (N,): of every class the nearest number of recordings to ``share`` of them."""
    rank, count = ranks(names, labels)
    return rank < np.rint(share * count)


def fold(names: Sequence[str], labels: Sequence[int], k: int, n: int) -> np.ndarray:
    """Which clips are in fold ``k`` of ``n`` (from 1), bool (N,): every recording is in exactly one."""
    rank, _ = ranks(names, labels)
    return rank % n == k - 1
