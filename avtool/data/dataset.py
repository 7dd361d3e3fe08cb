"""Random access to a prepared data set: memory-mapped index, byte ranges of the shards."""

import json
import os
import shlex
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avtool import places
from avtool.data import shards
from avtool.data.shards import ARRAYS, DATASET_JSON, READABLE, TAR_BLOCK, WAV_HEADER, index_path, shard_path
from avtool.data.staging import Staging
from avtool.errors import DataError
from avtool.inputs import from_jpeg
from avtool.registry import DATASETS

OPEN_SHARDS = 128
ALL = "all"


@dataclass(frozen=True)
class Record:
    """What is known of a clip. ``times`` float32 (K,) of its frames in seconds; ``key`` counts the frame that
    ``boxes``, float32 (M, 4) as x1, y1, x2, y2 fractions of it, belong to, the one that is shown at ``middle``;
    ``samples`` of sound; ``width`` and ``height`` of the stored frames; ``masked`` the frames that have a mask;
    ``stems`` the names of the sources.
    """

    id: str
    split: str
    labels: tuple[str, ...]
    label_ids: tuple[int, ...]
    times: np.ndarray
    key: int
    middle: float
    samples: int
    duration: float
    width: int
    height: int
    boxes: np.ndarray
    masked: tuple[int, ...]
    stems: tuple[str, ...]


class PreparedDataset:
    """The clips of one split ("all": every split) of the prepared data set in ``folder``, in the order of its
    source.

    Opening costs no more for a million clips than for ten. Safe to share with forked workers and threads;
    pickles as its folder and split. Raises DataError where the folder is not a prepared data set or the split
    is empty.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        self.folder, self.split = Path(folder), split
        facts = read_facts(self.folder)
        self.name: str = facts["name"]
        self.classes: list[str] = facts["classes"]
        self.splits: dict[str, int] = facts["splits"]
        self.checksum: str = facts["checksum"]
        self.sample_rate: int = facts["settings"]["sample_rate"]
        self.settings: dict[str, Any] = facts["settings"]
        self._split_names = list(self.splits)
        self._shard_bytes = [shard["bytes"] for shard in facts["shards"]]
        self._shard_paths = [shard_path(self.folder, shard["name"]) for shard in facts["shards"]]
        self._index = {name: self._map(name) for name in ARRAYS}
        clips = self._index["clips"]
        in_shards = not len(clips) or 0 <= clips[-1]["shard"] < len(self._shard_bytes)
        if not len(clips) == len(self._index["splits"]) == sum(self.splits.values()) or not in_shards:
            raise self._broken(f"{self.folder}: its index does not fit {DATASET_JSON}")
        self._clips = clips
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self._positions = self._select(split)

    def _map(self, name: str) -> np.ndarray:
        path = index_path(self.folder, name)
        try:
            array = np.load(path, mmap_mode="r" if path.stat().st_size > 4096 else None)
        except (OSError, ValueError, EOFError) as error:
            raise self._broken(f"{path} is missing or broken: {error}") from error
        if array.dtype != np.zeros(0, ARRAYS[name]).dtype:
            raise self._broken(f"{path} is not an index of this version")
        # mapped still: to read an item of a np.memmap costs several times as much
        return array.view(np.ndarray)

    def _select(self, split: str) -> np.ndarray | range:
        """Positions of the split's clips in the index."""
        if sum(self.splits.values()) == 0:
            hint = f"see {self.folder / 'report.json'} for the reasons"
            raise DataError(f"{self.folder} holds no clip", hint=hint)
        if split == ALL:
            return range(len(self._clips))
        if not self.splits.get(split):
            there = ", ".join(f"{name} ({count})" for name, count in self.splits.items() if count)
            raise DataError(
                f"{self.folder} has no clip of split {split}; there are: {there}",
                hint="choose one of these, or all (pretrain: data.split=all)",
            )
        return np.flatnonzero(self._index["splits"] == self._split_names.index(split))

    def __len__(self) -> int:
        return len(self._positions)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "split": self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def _clip(self, i: int) -> np.void:
        return self._clips[self._positions[i]]

    def _span(self, array: str, span: np.void) -> np.ndarray:
        begin, size = span.item()
        found = self._index[array][begin : begin + size]
        if len(found) != size:
            raise self._broken(f"{index_path(self.folder, array)} is shorter than the index needs")
        return found

    def _text(self, span: np.void) -> str:
        return self._span("text", span).tobytes().decode(errors="replace")

    def record(self, i: int) -> Record:
        """What is known of clip ``i``, from the index alone."""
        clip = self._clip(i)
        label_ids = tuple(self._span("labels", clip["labels"]).tolist())
        split = self._index["splits"][self._positions[i]]
        if not 0 <= split < len(self._split_names) or not all(0 <= k < len(self.classes) for k in label_ids):
            raise self._misfit(clip)
        return Record(
            id=self._text(clip["id"]),
            split=self._split_names[split],
            labels=tuple(self.classes[label] for label in label_ids),
            label_ids=label_ids,
            times=np.array(self._span("frames", clip["frames"])["time"]),
            key=int(clip["key"]),
            middle=float(clip["middle"]),
            samples=int(clip["samples"]),
            duration=float(clip["duration"]),
            width=int(clip["width"]),
            height=int(clip["height"]),
            boxes=np.array(self._span("boxes", clip["boxes"])),
            masked=tuple(self._span("masks", clip["masks"])["frame"].tolist()),
            stems=tuple(self._text(stem["name"]) for stem in self._span("stems", clip["stems"])),
        )

    def facts(self, i: int) -> dict[str, Any]:
        """Everything stored about clip ``i``: its .json member (``convert`` says what that holds)."""
        clip = self._clip(i)
        try:
            return json.loads(self._bytes(clip, *clip["json"].item()))
        except ValueError as error:
            raise self._misfit(clip) from error

    def label_id(self, i: int) -> int:
        """The first label's class id, -1 where clip ``i`` has none."""
        labels = self._span("labels", self._clip(i)["labels"])
        return int(labels[0]) if len(labels) else -1

    def recording(self, i: int) -> str:
        """What clip ``i`` was recorded in, its id where nothing else is known: clips that share it are not
        independent."""
        facts = self.facts(i)
        return str(facts.get("recording") or facts["id"])

    def check_rate(self, rate: int, whose: str, *, hint: str = "") -> None:
        """DataError where the sound is not stored at the ``rate`` that ``whose`` spectrogram is made of."""
        if rate != self.sample_rate:
            raise DataError(
                f"{whose} is made for sound of {rate} samples a second, but {self.folder} holds sound of "
                f"{self.sample_rate}",
                hint=hint
                or f"prepare the clips once more with sample_rate={rate}, into a folder of their own",
            )

    def durations(self) -> np.ndarray:
        """Seconds of every clip: float32 (N,)."""
        return self._clips["duration"][np.asarray(self._positions)]

    def shorter_than(self, samples: int) -> int:
        """How many clips have less sound than so many samples."""
        return int((self._clips["samples"][np.asarray(self._positions)] < samples).sum())

    def class_counts(self) -> np.ndarray:
        """How many clips have each class as a label: int64 (classes,)."""
        spans = self._clips["labels"][np.asarray(self._positions)]
        before = np.cumsum(spans["size"]) - spans["size"]
        places = np.arange(spans["size"].sum()) + np.repeat(spans["begin"] - before, spans["size"])
        return np.bincount(self._index["labels"][places], minlength=len(self.classes))

    def frame(self, i: int, k: int, reduce: int = 1) -> np.ndarray:
        """Frame ``k`` of clip ``i``: uint8 (H, W, 3) RGB, at 1 / ``reduce`` (1, 2, 4, 8) of its size."""
        clip = self._clip(i)
        entry = self._span("frames", clip["frames"])[k]
        data = self._bytes(clip, int(entry["begin"]), int(entry["size"]))
        frame = from_jpeg(data, reduce)
        if frame is None:
            raise self._misfit(clip)
        return frame

    def waveform(self, i: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """Samples ``start`` to ``start + count`` (None: the end), no further than the clip goes: int16 (N,)."""
        clip = self._clip(i)
        return self._samples(clip, int(clip["wav"]), int(clip["samples"]), start, count)

    def stem(self, i: int, name: str, start: int = 0, count: int | None = None) -> np.ndarray:
        """The same of one source's own sound. Raises KeyError where the clip has no such stem."""
        clip = self._clip(i)
        for stem in self._span("stems", clip["stems"]):
            if self._text(stem["name"]) == name:
                return self._samples(clip, int(stem["wav"]), int(stem["samples"]), start, count)
        raise KeyError(name)

    def mask(self, i: int, k: int | None = None) -> np.ndarray | None:
        """The mask of frame ``k`` (None: the key frame) of clip ``i``, uint8 (H, W), None where it has none."""
        clip = self._clip(i)
        frame = int(clip["key"]) if k is None else k
        entries = self._span("masks", clip["masks"])
        for entry in entries[entries["frame"] == frame]:
            data = self._bytes(clip, int(entry["begin"]), int(entry["size"]))
            mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if mask is None or mask.shape != (clip["height"], clip["width"]):
                raise self._misfit(clip)
            return mask
        return None

    def _samples(self, clip: np.void, begin: int, samples: int, start: int, count: int | None) -> np.ndarray:
        start = min(max(0, start), samples)
        count = samples - start if count is None else max(0, min(count, samples - start))
        return np.frombuffer(self._bytes(clip, begin + 2 * start, 2 * count), "<i2")

    def _bytes(self, clip: np.void, begin: int, size: int) -> bytes:
        shard, lengths = int(clip["shard"]), self._shard_bytes
        if not 0 <= shard < len(lengths) or not 0 <= begin <= begin + size <= lengths[shard]:
            raise self._misfit(clip)
        try:
            with self._lock:
                data = _read_at(self._file(clip), size, begin)
        except OSError as error:
            raise self._lost(shard, clip, f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise self._lost(shard, clip)
        return data

    def _file(self, clip: np.void) -> int:
        """The open file of the clip's shard; only so many are kept open."""
        shard = int(clip["shard"])
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        file = self._open(shard, clip)
        begin, size = int(clip["wav"]) - WAV_HEADER - TAR_BLOCK, WAV_HEADER + 2 * int(clip["samples"])
        fits = begin >= 0 and 0 < size < self._shard_bytes[shard]
        if not fits or _read_at(file, TAR_BLOCK, begin) != shards.member_header(
            f"{clip['row']:08d}.wav", size
        ):
            os.close(file)
            raise self._misfit(clip)
        self._files[shard] = file
        if len(self._files) > OPEN_SHARDS:
            os.close(self._files.popitem(last=False)[1])
        return file

    def check_shards(self) -> None:
        """DataError where a shard is missing or not of the size that it was written with. Nothing in it is read."""
        for shard in range(len(self._shard_bytes)):
            os.close(self._open(shard))

    def _open(self, shard: int, clip: np.void | None = None) -> int:
        """The shard's file, which is read for ``clip``."""
        try:
            file = os.open(self._shard_paths[shard], os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError as error:
            raise self._lost(shard, clip, "is missing") from error
        if os.fstat(file).st_size == self._shard_bytes[shard]:
            return file
        os.close(file)
        raise self._lost(shard, clip)

    def _lost(self, shard: int, clip: np.void | None, what: str = "") -> DataError:
        """``what`` became of a shard, "": another length; and the clip that was looked for in it."""
        length = f"does not have the {self._shard_bytes[shard]} bytes that {DATASET_JSON} says"
        what = what or f"{length}: it was cut short or replaced"
        sought = "" if clip is None else f"; clip {self._text(clip['id'])} is in it"
        return DataError(
            f"{self._shard_paths[shard]} {what}{sought}",
            hint=f"put it back as it was, or make the data anew: {_how_to_prepare(self.folder)}",
        )

    def _misfit(self, clip: np.void) -> DataError:
        shard, sought = int(clip["shard"]), self._text(clip["id"])
        path = self._shard_paths[shard] if 0 <= shard < len(self._shard_paths) else "any shard"
        return self._broken(f"the index does not fit {path} (row {clip['row']}) for clip {sought}")

    def _broken(self, what: str) -> DataError:
        return DataError(what, hint=_how_to_prepare(self.folder))


class _Settings(BaseModel):
    sample_rate: int


class _Shard(BaseModel):
    name: Annotated[str, Field(pattern=r"^[\w-]+\.tar$")]
    bytes: int
    sha256: str


class _Facts(BaseModel):
    """What dataset.json has to say, at least."""

    model_config = ConfigDict(strict=True)

    name: str
    classes: list[str]
    splits: dict[str, int]
    checksum: str
    settings: _Settings
    shards: list[_Shard]
    counts: dict[str, int]
    index: dict[str, str]
    made_with: list[dict[str, str]] = []


def _read_at(file: int, size: int, begin: int) -> bytes:
    """Bytes of an open file, by one thread at a time: not every system can read beside the file's own position."""
    if hasattr(os, "pread"):
        return os.pread(file, size, begin)
    os.lseek(file, begin, os.SEEK_SET)
    return os.read(file, size)


def read_facts(folder: Path) -> dict[str, Any]:
    """What the dataset.json of ``folder`` says. DataError where it is not prepared, or in another format, or broken."""
    path = folder / DATASET_JSON
    if not path.is_file():
        if command := Staging(folder).command():
            raise DataError(f"{folder} is not prepared to its end yet", hint=f"go on with: {command}")
        what = "there is nothing there" if not folder.exists() else f"no {DATASET_JSON} in it"
        raise DataError(f"{folder} is not a prepared data set: {what}", hint=_how_to_prepare(folder))
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is broken", hint=_how_to_prepare(folder)) from error
    if version not in READABLE:
        what = f"{path} is of format {version}, this avtool reads {' and '.join(map(str, READABLE))}"
        raise DataError(what, hint=_how_to_prepare(folder, facts))
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{path} is broken: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(what, hint=_how_to_prepare(folder)) from error
    return facts


def _how_to_prepare(folder: Path, facts: Mapping[str, Any] | None = None) -> str:
    """The command that makes ``folder``, of the data set of these ``facts``, by default of the one called so."""
    called, counts = (facts or {}).get("name", folder.name), (facts or {}).get("counts", {})
    commands = {name: name for name in DATASETS if name != "manifest"}
    if "prepared" in counts:
        commands["synth"] += f" --clips {counts['prepared'] + counts.get('refused', 0)}"
    for name, dataset in DATASETS.items():
        commands |= {f"{name}-{subset}": f"{commands[name]} --subset {subset}" for subset in dataset.subsets}
    name = commands.get(called, "manifest FILE.csv")
    if folder.exists() and not (folder / DATASET_JSON).exists():
        return f"avtool prepare {name} --out DIR, and --data DIR"  # it holds something else, which stays
    usual = called in commands and folder == places.prepared_folder(called)
    out = "" if usual else f" --out {shlex.quote(str(folder))}"
    return f"avtool prepare {name}{out}" + (" --force" if folder.exists() else "")
