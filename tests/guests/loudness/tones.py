"""A data set: a folder of pictures NAME.png with sounds NAME.wav; every fourth is of split test."""

from __future__ import annotations

from pathlib import Path

from avtool.data.catalog import DataSet, Request, Row, Source


def read(source: Path, request: Request) -> Source:
    """A row for every picture under the folder ``source``."""
    rows = [
        Row(path.stem, "test" if k % 4 == 3 else "train", (), image=path, audio=path.with_suffix(".wav"))
        for k, path in enumerate(sorted(source.glob("*.png")))
    ]
    return Source(rows, [])


DATASET = DataSet(read)
