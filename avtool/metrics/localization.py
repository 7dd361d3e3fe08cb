"""Localization: does a map point at what sounds? Protocols ``pointing``, ``ciou-median``, ``ciou-adaptive``,
``ciou-fixed``, ``ciou-swept`` and ``slavc-extended``, their truth, and their controls.

Letters: B images, and maps (B, rows, columns) of any resolution, higher where the sound is located; truth (B, H, W).
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from avtool.errors import DataError, NotFinite
from avtool.features import upsampled

EVALUATION_SIZE = (224, 224)
"""Rows and columns at which truth is drawn where nothing else is said."""


def boxes_to_mask(size: tuple[int, int], boxes: np.ndarray, *, whole_pixels: bool = False) -> np.ndarray:
    """The union of boxes (M, 4), x1, y1, x2, y2 as fractions of the frame, as a bool (rows, columns) mask.

    A pixel is inside where its centre is; no boxes give an empty mask. With ``whole_pixels``, corners are first rounded
    down to whole pixels: how the tables of ``ciou-median`` and ``ciou-adaptive`` draw their truth.
    """
    rows, columns = size
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if whole_pixels:
        sides = np.array([columns, rows, columns, rows])
        boxes = np.floor(boxes * sides) / sides
    y, x = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns)[None] + 0.5) / columns
    mask = np.zeros(size, bool)
    for x1, y1, x2, y2 in boxes:
        mask |= (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)
    return mask


def consensus_map(size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """min(1, sum of the annotators' boxes / 2): Flickr-SoundNet's truth, float64 (rows, columns), one of 0, 0.5 and 1.

    ``boxes`` (M, 4) are those of all annotators, drawn in ``whole_pixels``; where one alone drew, a pixel counts half.
    Source: Senocak et al., CVPR 2018, section 5 (their consensus of two).
    """
    drawn = [
        boxes_to_mask(size, box, whole_pixels=True) for box in np.asarray(boxes, np.float64).reshape(-1, 4)
    ]
    return np.minimum(1, sum(drawn, np.zeros(size)) / 2)


def pointing_hits(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Protocol ``pointing``, the mean of this: whether the highest cell of each map (B, rows, columns) lies inside its
    truth, bool (B, H, W): float64 (B,).

    hit_b = mean over the cells c with P_b(c) = max P_b of G_b(centre of c): 1 or 0 where one cell is highest. Where
    several are, it is the chance that one drawn from them lies inside, so that a constant map gets its truth's share of
    the cells and no hit by luck. The maps may be of any resolution: bilinear upsampling leaves the highest place at a
    cell's centre (at the frame's edge it spreads it out to there). NaN where the truth is empty: leave such images out,
    and count them. ValueError for maps that do not go with ``truth``, NotFinite.

    Source: the pointing game (Zhang et al., arXiv 1608.00507, section 4.2), without its tolerance of 15 pixels.
    """
    maps, truth = np.asarray(maps), np.asarray(truth, bool)
    if maps.ndim != 3 or truth.ndim != 3 or len(maps) != len(truth):
        raise ValueError(f"maps {maps.shape} and truth {truth.shape} are not B maps and B masks")
    if not np.isfinite(maps).all():
        raise NotFinite("a map holds values that are not finite")
    rows, columns = maps.shape[1:]
    height, width = truth.shape[1:]
    centre_row = (2 * np.arange(rows) + 1) * height // (2 * rows)
    centre_column = (2 * np.arange(columns) + 1) * width // (2 * columns)
    inside = truth[:, centre_row][:, :, centre_column]
    highest = maps == maps.max(axis=(1, 2), keepdims=True)
    hits = (inside & highest).sum(axis=(1, 2)) / highest.sum(axis=(1, 2))
    return np.where(truth.any(axis=(1, 2)), hits, np.nan)


def ciou_median(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Protocol ``ciou-median``: the cIoU of the upper half of each map's pixels, float64 (B,); NaN where the truth is
    empty.

    P, the map upsampled to the truth's size; theta = sort(P)[floor(n / 2)] of its n pixels; A = [P >= theta];

        cIoU = sum(A G) / (sum(G) + sum(A [G = 0]))

    ``truth`` (B, H, W) in 0 to 1, bool or with half pixels. A map without levels predicts every pixel. Scaling P by its
    least and highest value, as the protocol is written, changes no order of pixels, so it is not done.
    ValueError for maps that do not go with ``truth``, NotFinite.

    Source: EZ-VSL (Mo and Morgado, ECCV 2022); cIoU is Senocak et al.'s (CVPR 2018).
    """
    levels, truth = _on_truth(maps, truth)
    half = levels.shape[1] // 2
    theta = np.partition(levels, half, axis=1)[:, half, None]
    return _ciou((levels >= theta).astype(np.float64), truth)


def ciou_adaptive(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Protocol ``ciou-adaptive``: ``ciou_median`` where as many pixels are predicted as the truth has (G > 0).

    Exactly as many: where pixels of one level are not all taken, each counts by the share that is, so that a map
    without levels is scored as a draw by lot. Source: SSLalignment (Senocak et al., ICCV 2023).
    """
    levels, truth = _on_truth(maps, truth)
    count = (truth > 0).sum(axis=1, keepdims=True)
    last = levels.shape[1] - np.maximum(count[:, 0], 1)
    theta = np.array([[np.partition(row, at)[at]] for row, at in zip(levels, last, strict=True)])
    above, at = levels > theta, levels == theta
    share = (count - above.sum(axis=1, keepdims=True)) / at.sum(axis=1, keepdims=True)
    return _ciou(above + share * at, truth)


FIXED, SWEPT = 0.5, np.arange(1, 20) / 20


def ciou_at(maps: np.ndarray, truth: np.ndarray, thresholds: Sequence[float] = (FIXED,)) -> np.ndarray:
    """``ciou_median`` where the pixels are predicted that reach one of T ``thresholds`` of the map scaled to 0 to 1 by
    its own least and highest value: float64 (T, B). A map without levels predicts every pixel.

    Protocol ``ciou-fixed`` takes 0.5 (Senocak et al., CVPR 2018).
    """
    levels, truth = _on_truth(maps, truth)
    low, high = levels.min(axis=1, keepdims=True), levels.max(axis=1, keepdims=True)
    return np.stack(
        [_ciou((levels >= low + share * (high - low)).astype(np.float64), truth) for share in thresholds]
    )


def ciou_swept(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Protocol ``ciou-swept``: ``ciou_at`` that one of the thresholds ``SWEPT`` with which most of all maps reach a
    cIoU of 0.5, of several the lowest: float64 (B,). It is chosen on what is judged, so that no threshold gives
    more."""
    cious = ciou_at(maps, truth, SWEPT.tolist())
    return cious[(cious >= 0.5).sum(axis=1).argmax()]


CIOU_THRESHOLDS = np.arange(21) / 20
"""Those of the area under the curve: the trapezoid over them of the share of images with such a cIoU or more."""


def slavc_confidence(maps: np.ndarray, size: tuple[int, int] = EVALUATION_SIZE) -> np.ndarray:
    """How sure maps of cosines (B, rows, columns) are that something sounds: float64 (B,) in 0 to 1.

    The mean of the top quarter of (cos + 1) / 2 over the pixels of the map upsampled to ``size``.
    Source: SLAVC (Mo and Morgado, NeurIPS 2022).
    """
    levels = np.sort((upsampled(maps, size).reshape(len(maps), -1) + 1) / 2, axis=1)
    return levels[:, -(levels.shape[1] // 4) :].mean(axis=1)


class SlavcExtended(NamedTuple):
    """Average precision, the highest F1 and ``loc_acc``, the share of images with boxes whose cIoU is above 0.5."""

    ap: float
    max_f1: float
    loc_acc: float


def slavc_extended(confidence: np.ndarray, ciou: np.ndarray) -> SlavcExtended:
    """Protocol ``slavc-extended``: silent and off-screen sources count, from ``slavc_confidence`` (N,) and
    ``ciou_median`` (N,), NaN for an image without boxes.

    At a threshold t, which runs over all confidences c: TP where c >= t and cIoU >= 0.5; FP where c >= t and
    cIoU < 0.5 or there are no boxes; FN where there are boxes and c < t. Precision TP / (TP + FP) and recall
    TP / (TP + FN) are 1 where that is empty. AP is the sum over rising recall of its step times the highest precision
    at that recall or more. NaN for no images, and ``loc_acc`` where none has boxes.

    Source: SLAVC (Mo and Morgado, NeurIPS 2022), which samples the thresholds and leaves out the first step of recall.
    """
    boxed = ~np.isnan(ciou)
    loc_acc = float((ciou[boxed] > 0.5).mean()) if boxed.any() else np.nan
    if not len(ciou):
        return SlavcExtended(np.nan, np.nan, loc_acc)
    thresholds = np.unique(confidence)[::-1]
    found = boxed & (np.nan_to_num(ciou) >= 0.5)

    def at_least(which: np.ndarray) -> np.ndarray:
        return which.sum() - np.searchsorted(np.sort(confidence[which]), thresholds)

    hit, false = at_least(found), at_least(~found)
    missed = boxed.sum() - at_least(boxed)
    precision = hit / (hit + false)
    recall = np.where(hit + missed > 0, hit / np.maximum(hit + missed, 1), 1.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return SlavcExtended(float(np.diff(recall, prepend=0) @ envelope), float(f1.max()), loc_acc)


def ideal_map(truth: np.ndarray) -> np.ndarray:
    """The ceiling of ``ciou_median`` and ``ciou_adaptive``: a map float64 (B, H, W), the truth with all ties broken.

    With half of the frame always predicted, even this one passes only where the truth covers a quarter of it.
    """
    order = np.arange(truth[0].size).reshape(truth[0].shape) / truth[0].size
    return truth + order / 4


def _on_truth(maps: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps upsampled to their truth's size, and the truth, both float64 (B, H W)."""
    truth = np.asarray(truth, np.float64)
    if truth.ndim != 3 or np.ndim(maps) != 3 or len(maps) != len(truth):
        raise ValueError(f"maps {np.shape(maps)} and truth {truth.shape} are not B maps and B masks")
    levels = upsampled(maps, (truth.shape[1], truth.shape[2]))
    if not np.isfinite(levels).all():
        raise NotFinite("a map holds values that are not finite")
    return levels.reshape(len(levels), -1), truth.reshape(len(truth), -1)


def _ciou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """sum(A G) / (sum(G) + sum(A [G = 0])) of (B, n) each: (B,), NaN where G is 0 everywhere."""
    inside = (predicted * truth).sum(axis=1)
    union = truth.sum(axis=1) + (predicted * (truth == 0)).sum(axis=1)
    return np.where(truth.any(axis=1), inside / np.maximum(union, 1), np.nan)


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of ``count`` independent trials: sqrt(p (1 - p) / n)."""
    return float(np.sqrt(share * (1 - share) / count))


def centred_disc(size: tuple[int, int]) -> np.ndarray:
    """The blind control: a map float32 (rows, columns) that sees and hears nothing.

    1 - the distance from the centre, where the frame reaches from -1 to 1 along both sides: highest in the
    middle, and every level of it a disc (an ellipse, where the frame is not square).
    """
    y, x = ((2 * np.arange(side) + 1) / side - 1 for side in size)
    return (1 - np.hypot(y[:, None], x[None])).astype(np.float32)


def exchange_by_class(labels: Sequence[Collection[int]], *, seed: int) -> np.ndarray:
    """A fixed exchange of sounds: clip i gets the sound of clip ``result[i]``, which shares no label with it.

    ``labels`` holds each clip's class ids. The result is a permutation int64 (N,) without fixed points, a function of
    labels and seed: random, then repaired by swaps. DataError where a clip has no label or no such exchange is found
    (surely so where one class has more than half of the clips; with one label a clip, only then).
    """
    if unlabelled := sum(not own for own in labels):
        raise DataError(
            f"{unlabelled} of {len(labels)} clips have no label, so no sound is known to be of another class",
            hint="prepare the data with labels",
        )
    has = np.zeros((len(labels), 1 + max((max(own) for own in labels), default=0)), np.float32)
    for clip, own in enumerate(labels):
        has[clip, list(own)] = 1
    generator = np.random.default_rng(seed)
    sound = generator.permutation(len(labels))
    for unfit in np.flatnonzero((has * has[sound]).any(axis=1)):
        fits = (has[sound] @ has[unfit] == 0) & (has @ has[sound[unfit]] == 0)
        if not fits.any():
            raise DataError(
                f"the sounds of these {len(labels)} clips cannot be exchanged between classes",
                hint="take clips of at least two classes, none of them with more than half of the clips",
            )
        other = generator.choice(np.flatnonzero(fits))
        sound[[unfit, other]] = sound[[other, unfit]]
    return sound


class Exchange(NamedTuple):
    """Sample i gets the sound of sample ``sounds[i]``, int64 (N,), None where there is no other; ``called`` says whose
    that is, and ``notes`` why it is not another class's."""

    sounds: np.ndarray | None
    called: str
    notes: tuple[str, ...] = ()


ANOTHER_CLASS, ANOTHER_CLIP = "another class's sound", "another clip's sound"


def exchange_sounds(
    labels: Sequence[Collection[int]], recordings: Sequence[str], clips: Sequence[int], *, seed: int
) -> Exchange:
    """``exchange_by_class``; where that cannot be, an exchange between recordings, or else clips.

    ``labels``, ``recordings`` and ``clips`` say of each sample, a frame say, its class ids, and what it is of.
    """
    try:
        return Exchange(exchange_by_class(labels, seed=seed), ANOTHER_CLASS)
    except DataError as error:
        why = f"No row with {ANOTHER_CLASS}: {error.message}"
    for names in (recordings, clips):
        _, group, count = np.unique(names, return_inverse=True, return_counts=True)
        if 2 * count.max() > len(group):
            continue
        order = np.random.default_rng(seed).permutation(len(group))
        # groups side by side: a shift by the length of the longest is enough
        order = order[np.argsort(group[order], kind="stable")]
        sounds = np.empty_like(order)
        sounds[order] = np.roll(order, -int(count.max()))
        return Exchange(sounds, ANOTHER_CLIP, (f"{why}; one with {ANOTHER_CLIP} is in its place.",))
    return Exchange(None, "", (f"{why}; nor with {ANOTHER_CLIP}: most samples are of one clip.",))
