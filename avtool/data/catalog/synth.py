"""Sounding objects that avtool renders itself, each clip as it is prepared."""

from pathlib import Path

from avtool.data.catalog import DataSet, Request, Row, Source, classes_of
from avtool.data.synth import check, name_of
from avtool.data.synth.casts import cast_of

SCENES = "scenes"
"""The part that is version 2: it says of each clip which scenario it is."""


def read(source: Path, request: Request) -> Source:
    """The rows of clips 0 to ``request.clips`` - 1; ``source`` is not looked at. UsageError as of ``synth.check``."""
    check(request.clips, request.seed)
    rows, version = [], 2 if request.subset == SCENES else 1
    for clip in range(request.clips):
        cast, name = cast_of(request.seed, clip, version), name_of(clip)
        # by the recording clips are held out for validation: the file's name, as it was when there was one
        recording = f"clips/{name}.mp4"
        extra = {"scenario": cast.scenario} if cast.scenario else {}
        rendered = (request.seed, clip, version)
        rows.append(Row(name, cast.split, cast.labels, recording=recording, extra=extra, rendered=rendered))
    return Source(rows, classes_of(rows))


DATASET = DataSet(read, subsets=(SCENES,))
