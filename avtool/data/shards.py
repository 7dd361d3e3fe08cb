"""The store: tar shards that any WebDataset reader can read, and an index for random access beside them.

A prepared data set is a folder:

- ``shards/train-00000.tar``: the clips of so many source rows of one split, in their order (it may come out short).
  The members of the clip of row 12 are ``00000012.json`` (facts, the same keys in every clip), ``.wav`` (16-bit mono;
  samples begin at byte 44), ``.jpg`` (the key frame), ``.f000.jpg`` and so on (the other frames), and where they are
  known ``.mask.png`` (the mask of the key frame), ``.m000.png`` (that of frame 0) and ``.stem0.wav`` and so on.
  Headers carry no time and no owner.
- ``index/*.npy``: arrays that are memory-mapped, so that a large index opens at once. ``clips`` has one entry
  a clip and points into the others: ``frames``, ``masks``, ``labels``, ``boxes``, ``stems`` and ``text`` (ids
  and names, UTF-8).
- ``dataset.json``: version, name, settings, counts, classes, splits, shards with their sums, one sum over all of
  it, and beside that the licence that was given and the versions of the tools that made it.
- ``README.md``: the card, by which Hugging Face ``datasets`` loads the shards.
- ``report.json`` and ``report.html``: what became of every row that is not simply prepared.

The same source, settings and versions of those tools give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avtool.data.card import CARD, KEY_FRAME, card_of_shards
from avtool.data.convert import PreparedClip, Settings
from avtool.files import json_text, sha256_of, write_json
from avtool.media import Tools

FORMAT = 4
READABLE = (3, FORMAT)
"""Format 3 had shards of several splits, and a number in the name of every frame: the index says where they are."""
DATASET_JSON = "dataset.json"
LICENCE, MADE_WITH = "licence", "made_with"
"""In dataset.json, outside its sum: what was given, or None; the versions of the tools, a list, as the parts may be of
several."""
FINGERPRINT = "fingerprint"
"""The last member of a clip as it is staged: what the audit tells it by, which no shard keeps."""
WAV_HEADER = 44
TAR_BLOCK = 512

SPAN = np.dtype([("begin", "<i8"), ("size", "<i8")])
CLIP = np.dtype(
    [("row", "<i8"), ("shard", "<i4"), ("key", "<i4"), ("middle", "<f4"), ("width", "<i4"), ("height", "<i4")]
    + [("duration", "<f4"), ("samples", "<i8"), ("wav", "<i8"), ("json", SPAN)]
    + [(name, SPAN) for name in ("id", "frames", "masks", "labels", "boxes", "stems")]
)
"""``wav`` is where the samples begin and ``json`` bytes of the shard; the others are spans of the arrays of their
names (``id`` of ``text``)."""
FRAME = np.dtype([("time", "<f4"), ("begin", "<i8"), ("size", "<i4")])
MASK = np.dtype([("frame", "<i4"), ("begin", "<i8"), ("size", "<i4")])
STEM = np.dtype([("name", SPAN), ("wav", "<i8"), ("samples", "<i8")])
ARRAYS = {
    "clips": CLIP,
    "splits": np.dtype("<i2"),
    "frames": FRAME,
    "masks": MASK,
    "labels": np.dtype("<i4"),
    "boxes": np.dtype(("<f4", (4,))),
    "stems": STEM,
    "text": np.dtype("u1"),
}


class Shard(NamedTuple):
    """Shard ``number`` of a data set: its file's ``name``, and the source ``rows`` of ``split`` that it holds."""

    number: int
    name: str
    split: str
    rows: Sequence[int]


def shards_of(splits: Iterable[str], size: int) -> list[Shard]:
    """The shards of the rows that are of these ``splits``: of every split, ``size`` rows to a shard, in their order."""
    rows: dict[str, list[int]] = {}
    for row, split in enumerate(splits):
        rows.setdefault(split, []).append(row)
    files, found = split_files(rows), list[Shard]()
    for split in sorted(rows):
        for k, begin in enumerate(range(0, len(rows[split]), size)):
            name = f"{files[split]}-{k:05d}.tar"
            found.append(Shard(len(found), name, split, rows[split][begin : begin + size]))
    return found


def split_files(splits: Iterable[str]) -> dict[str, str]:
    """What each split is called in file names and in the card: itself, with _ for what is no letter, digit or _. "all"
    is every split for other readers too."""
    files: dict[str, str] = {}
    for split in sorted(splits):
        files[split] = re.sub(r"\W", "_", split)[:80]
        while files[split] in ("all", *(files[other] for other in files if other != split)):
            files[split] += "_"
    return files


def shard_path(folder: Path, name: str) -> Path:
    """Where the shard of file name ``name`` of the data set in ``folder`` is."""
    return folder / "shards" / name


def index_path(folder: Path, array: str) -> Path:
    """Where an array of the index is."""
    return folder / "index" / f"{array}.npy"


def wav_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """A .wav of int16 (N,): a plain header of 44 bytes, then the samples."""
    size = 2 * len(waveform)
    riff = struct.pack("<4sI4s", b"RIFF", WAV_HEADER - 8 + size, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    samples = np.ascontiguousarray(waveform, "<i2").data
    return b"".join((riff, form, struct.pack("<4sI", b"data", size), samples))


def clip_bytes(row: int, clip: PreparedClip, settings: Settings) -> bytes:
    """The clip of source row ``row`` as its members lie in a shard, and its fingerprint after them."""
    text = json_text(clip.facts(settings), ensure_ascii=False, sort_keys=True).encode()
    members = [("json", text), ("wav", wav_bytes(clip.waveform, settings.sample_rate))]
    pictures = [(frame_name(k, clip.key), jpeg) for k, jpeg in enumerate(clip.jpegs)]
    pictures += [(mask_name(k, clip.key), mask) for k, mask in clip.masks.items()]
    members += sorted(pictures, key=lambda picture: picture[0] not in KEY_FRAME)
    stems = enumerate(clip.stems.values())
    members += [(f"stem{k}.wav", wav_bytes(stem, settings.sample_rate)) for k, stem in stems]
    members.append((FINGERPRINT, clip.fingerprint.to_bytes()))
    return b"".join(
        part
        for name, data in members
        for part in (member_header(f"{row:08d}.{name}", len(data)), data, bytes(-len(data) % TAR_BLOCK))
    )


def frame_name(k: int, key: int) -> str:
    """What follows the row in the name of frame ``k`` of a clip whose key frame is ``key``."""
    return KEY_FRAME[0] if k == key else f"f{k:03d}.jpg"


def mask_name(k: int, key: int) -> str:
    """The same of the mask of frame ``k``."""
    return KEY_FRAME[1] if k == key else f"m{k:03d}.png"


def member_header(name: str, size: int) -> bytes:
    """What stands before a member of a shard."""
    header = tarfile.TarInfo(name)
    header.size = size
    return header.tobuf(tarfile.USTAR_FORMAT)


class ShardWriter:
    """Writes one shard; ``packed`` is its index, ``facts`` its line in dataset.json once it is closed."""

    def __init__(self, path: Path, shard: Shard, classes: Sequence[str], splits: Sequence[str]) -> None:
        self.shard = shard
        self.class_ids = {label: position for position, label in enumerate(classes)}
        self.split_ids = {split: position for position, split in enumerate(splits)}
        self.path, self.size, self.clips, self.sum = path, 0, 0, hashlib.sha256()
        self.arrays: dict[str, list[Any]] = {name: [] for name in ARRAYS}

    def __enter__(self) -> ShardWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self.file:
            if kind is None:
                self._write(bytes(2 * TAR_BLOCK))

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.shard.name,
            "split": self.shard.split,
            "clips": self.clips,
            "bytes": self.size,
            "sha256": self.sum.hexdigest(),
        }

    def add(self, row: int, data: bytes) -> dict[str, Any]:
        """Append the clip of source row ``row``, as ``clip_bytes`` gives it; its facts, the ``bytes`` it takes and its
        ``fingerprint``."""
        # where each member, by what follows the key in its name, will lie
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            spans = {
                member.name.removeprefix(f"{row:08d}."): (self.size + member.offset_data, member.size)
                for member in tar
            }
        (begin, size), (last, length) = spans["json"], spans.pop(FINGERPRINT)
        facts = json.loads(data[begin - self.size : begin - self.size + size])
        self._index(row, facts, spans)
        stored = data[: last - self.size - TAR_BLOCK]
        found = data[last - self.size :][:length]
        self._write(stored)
        self.clips += 1
        return {**facts, "bytes": len(stored), FINGERPRINT: found}

    def _index(self, row: int, facts: dict[str, Any], spans: dict[str, tuple[int, int]]) -> None:
        key, stems = facts["key"], []
        frames = [(time, *spans[frame_name(k, key)]) for k, time in enumerate(facts["times"])]
        for k, name in enumerate(facts["stems"]):
            begin, size = spans[f"stem{k}.wav"]
            stems.append((self._extend("text", name.encode()), begin + WAV_HEADER, (size - WAV_HEADER) // 2))
        self._extend("splits", [self.split_ids[facts["split"]]])
        entry = (row, self.shard.number, key, facts["middle"], *facts["size"], facts["duration"])
        entry += (facts["samples"], spans["wav"][0] + WAV_HEADER, spans["json"])
        entry += (
            self._extend("text", facts["id"].encode()),
            self._extend("frames", frames),
            self._extend("masks", [(k, *spans[mask_name(k, key)]) for k in facts["masks"]]),
            self._extend("labels", [self.class_ids[x] for x in facts["labels"] if x in self.class_ids]),
            self._extend("boxes", [tuple(box) for box in facts["boxes"]]),
            self._extend("stems", stems),
        )
        self._extend("clips", [entry])

    def _extend(self, name: str, items: Sequence[Any]) -> tuple[int, int]:
        """Append to an array, whose positions count from the shard's own start; the (begin, size) of the items."""
        self.arrays[name].extend(items)
        return len(self.arrays[name]) - len(items), len(items)

    def packed(self) -> dict[str, np.ndarray]:
        """The index: its arrays in their final types."""
        packed = {name: np.zeros(len(items), ARRAYS[name]) for name, items in self.arrays.items()}
        for name, items in self.arrays.items():
            if items:
                packed[name][:] = items
        return packed

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.sum.update(data)
        self.size += len(data)


def merge(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The parts of all shards, in order, as one index, whose clips are in the order of the source."""
    spans = {"id": "text", **{name: name for name in ("frames", "masks", "labels", "boxes", "stems")}}
    begins = dict.fromkeys(ARRAYS, 0)
    shifted = {name: [np.zeros(0, dtype)] for name, dtype in ARRAYS.items()}
    for part in parts:
        clips, stems = part["clips"].copy(), part["stems"].copy()
        for name, held_in in spans.items():
            clips[name]["begin"] += begins[held_in]
        stems["name"]["begin"] += begins["text"]
        for name, array in {**part, "clips": clips, "stems": stems}.items():
            shifted[name].append(array)
            begins[name] += len(array)
    merged = {name: np.concatenate(arrays) for name, arrays in shifted.items()}
    order = np.argsort(merged["clips"]["row"])
    return merged | {name: merged[name][order] for name in ("clips", "splits")}


def seal(
    folder: Path,
    parts: Sequence[dict[str, np.ndarray]],
    shards: Sequence[dict[str, Any]],
    *,
    name: str,
    settings: Settings,
    classes: Sequence[str],
    splits: Sequence[str],
    counts: dict[str, int],
    licence: str | None,
    made_with: Sequence[Tools],
) -> None:
    """Write index, card and dataset.json of a folder whose shards are written, which makes it a data set."""
    arrays = merge(parts)
    (folder / "index").mkdir(parents=True, exist_ok=True)
    for array, values in arrays.items():
        np.save(index_path(folder, array), values)
    in_split = np.bincount(arrays["splits"], minlength=len(splits))
    facts = {
        "format": FORMAT,
        "name": name,
        "settings": settings.model_dump(),
        "counts": counts,
        "classes": list(classes),
        "splits": {split: int(count) for split, count in zip(splits, in_split, strict=True)},
        "shards": list(shards),
        "index": {array: sha256_of(index_path(folder, array)) for array in arrays},
    }
    facts |= {"checksum": checksum_of(facts), LICENCE: licence, MADE_WITH: list(made_with)}
    (folder / CARD).write_text(card_of_shards(facts, arrays, split_files(splits)), encoding="utf-8")
    write_json(folder / DATASET_JSON, facts, indent=1, ensure_ascii=False)


def checksum_of(facts: Mapping[str, Any]) -> str:
    """The sum over what dataset.json says, but for itself, the licence and what made it: the same bytes have the same
    sum."""
    summed = {key: value for key, value in facts.items() if key not in ("checksum", LICENCE, MADE_WITH)}
    return hashlib.sha256(json_text(summed, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
