"""Sounding objects that avtool renders itself, each clip as it is prepared."""

from pathlib import Path

from avtool.data.catalog import DataSet, Request, Row, Source, classes_of
from avtool.data.synth import check, labels_of, name_of


def read(source: Path, request: Request) -> Source:
    """The rows of clips 0 to ``request.clips`` - 1; ``source`` is not looked at. UsageError as of ``synth.check``."""
    check(request.clips, request.seed)
    rows = []
    for clip in range(request.clips):
        (split, labels), name = labels_of(request.seed, clip), name_of(clip)
        # by the recording clips are held out for validation: the file's name, as it was when there was one
        recording = f"clips/{name}.mp4"
        rows.append(Row(name, split, labels, recording=recording, rendered=(request.seed, clip)))
    return Source(rows, classes_of(rows))


DATASET = DataSet(read)
