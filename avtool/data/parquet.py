"""Prepared data as Parquet: the only user of pyarrow (extra ``parquet``).

The folder has ``data/train-00000.parquet`` and so on, a row for each clip of the shard of that name, the card by which
Hugging Face ``datasets`` loads it, and ``converted_from.json``: what dataset.json said.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avtool.data.card import CARD, FACTS, card
from avtool.data.dataset import ALL, PreparedDataset, read_facts
from avtool.data.shards import frame_name, mask_name, shard_path, split_files
from avtool.errors import DataError, UsageError
from avtool.files import atomic_folder, check_output, json_text, write_json
from avtool.libraries import need_extra
from avtool.progress import progress_bar

if TYPE_CHECKING:
    import pyarrow

FORMS = ("parquet",)
CONVERTED_FROM = "converted_from.json"
GROUP_BYTES = 32 << 20
"""Bytes of clips, about, in a group of rows: so much a reader holds at a time."""
COLUMNS = {name: kind for name, (kind, _) in FACTS.items()} | {
    "frames": {"list": "image"},
    "wav": "binary",
    "mask_images": {"list": "image"},
    "stem_wavs": {"list": "binary"},
}


def convert_data(folder: Path, out: Path, *, to: str = "parquet", force: bool = False) -> dict[str, int]:
    """Write the prepared data set in ``folder`` as ``to`` ("parquet") into the new folder ``out``; how many clips of
    each split it holds.

    UsageError where pyarrow is missing or ``out`` exists, unless ``force`` and this wrote it; DataError where
    ``folder`` is not a prepared data set, or damaged. Nothing is left of ``out`` then.
    """
    if to not in FORMS:
        raise UsageError(f"unknown form {to}", hint=f"there is: --to {', '.join(FORMS)}")
    need_extra("pyarrow", extra="parquet", purpose=f"--to {to}")
    check_output(out, force=force, markers=(CONVERTED_FROM,))
    PreparedDataset(folder, ALL).check_shards()
    facts = read_facts(folder)
    files = split_files(facts["splits"])
    written, counts = Counter[str](), Counter[str]()
    shown = progress_bar("converting", total=sum(facts["splits"].values()), unit="clips")
    with atomic_folder(out) as partial, shown as bar:
        (partial / "data").mkdir()
        for shard in facts["shards"]:
            with ExitStack() as held:
                groups: dict[str, _Groups] = {}  # up to format 3 a shard may hold several splits
                for row in _rows(shard_path(folder, shard["name"])):
                    split = row["split"]
                    if split not in groups:
                        path = partial / "data" / f"{files[split]}-{written[split]:05d}.parquet"
                        groups[split] = held.enter_context(_Groups(path))
                        written[split] += 1
                    groups[split].add(row)
                    counts[split] += 1
                    bar.advance()
        if counts != Counter(facts["splits"]):
            raise _damaged(folder, f"{folder} has other clips than its dataset.json says")
        (partial / CARD).write_text(card(facts, COLUMNS, files, "data/{}-*.parquet"), encoding="utf-8")
        told = {key: value for key, value in facts.items() if key not in ("shards", "index")}
        write_json(partial / CONVERTED_FROM, told, indent=1, ensure_ascii=False)
    return dict(counts)


class _Groups:
    """A Parquet file, written in groups of rows."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        fields = {name: _type(kind) for name, kind in COLUMNS.items()}
        self.schema = pyarrow.schema(fields)
        self.file = parquet.ParquetWriter(path, self.schema)
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0

    def __enter__(self) -> _Groups:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self.file:
            if kind is None:
                self._write()

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.bytes += sum(len(picture["bytes"]) for picture in row["frames"]) + len(row["wav"])
        if self.bytes >= GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        import pyarrow

        if self.rows:
            self.file.write_table(pyarrow.Table.from_pylist(self.rows, self.schema))
        self.rows, self.bytes = [], 0


def _type(kind: Any) -> pyarrow.DataType:
    """The type of a column that ``datasets`` calls ``kind``; pictures are as it stores them, JSON is its text."""
    import pyarrow

    if not isinstance(kind, str):
        return pyarrow.list_(_type(kind["list"]))
    if kind == "image":
        return pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    return pyarrow.type_for_alias("string" if kind == "json" else kind)


def _rows(shard: Path) -> Iterator[dict[str, Any]]:
    """The clips of ``shard`` as rows, in their order. DataError where it is damaged."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for _, of_clip in groupby(tar, key=lambda member: member.name.partition(".")[0]):
                found = {member: tar.extractfile(member) for member in of_clip}
                yield _row(
                    {member.name.partition(".")[2]: file.read() for member, file in found.items() if file}
                )
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise _damaged(shard.parent.parent, f"{shard} is damaged: {error}") from error


def _row(members: Mapping[str, bytes]) -> dict[str, Any]:
    facts = json.loads(members["json"])

    def stored(name: Any, k: int) -> dict[str, Any]:
        # up to format 3 the key frame had a number too
        return {"bytes": members.get(name(k, facts["key"])) or members[name(k, -1)], "path": None}

    row = {name: facts.get(name) for name in FACTS}
    for name, (kind, _) in FACTS.items():
        if kind == "json" and row[name] is not None:
            row[name] = json_text(row[name], ensure_ascii=False)
    return row | {
        "frames": [stored(frame_name, k) for k in range(len(facts["times"]))],
        "wav": members["wav"],
        "mask_images": [stored(mask_name, k) for k in facts["masks"]],
        "stem_wavs": [members[f"stem{k}.wav"] for k in range(len(facts["stems"]))],
    }


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(what, hint=f"avtool inspect {folder} --verify names what changed; prepare it again")
