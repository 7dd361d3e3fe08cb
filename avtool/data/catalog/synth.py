"""Sounding objects that avtool renders itself: real mp4 files, prepared like any download."""

from pathlib import Path

from avtool.data.catalog import DataSet, Request, Source, manifest
from avtool.data.synth import render
from avtool.progress import progress_bar


def read(source: Path, request: Request) -> Source:
    """Render ``request.clips`` clips into ``source``, an empty folder, and read the manifest made there."""
    with progress_bar("rendering synth", total=request.clips, unit="clips") as bar:
        table = render(source, clips=request.clips, seed=request.seed, progress=lambda done: bar.advance())
    return manifest.read(table, request)


DATASET = DataSet(read)
