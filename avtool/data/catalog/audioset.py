"""AudioSet (Gemmeke et al., 2017): 10 s clips, each with several of 527 classes.

``annotations/`` holds class_labels_indices.csv (index, mid, display_name) and, by subset,
balanced_train_segments.csv, unbalanced_train_segments.csv, eval_segments.csv: lines that begin with #, then
id, start, end, mids in quotes, with or without a space before each, seconds as 30 or 30.000. Without a subset:
balanced as split train and eval as split test.

Clips lie anywhere under the folder, also in archives, named ID, ID_START or ID_START_END with the times in seconds
(30, 30.000, 000030) or milliseconds (30000); Y before the ID is skipped. Each holds just its 10 seconds.
Classes and their ids are those of class_labels_indices.csv.
"""

import os
from itertools import chain
from pathlib import Path

from avtool.data.catalog import DataSet, Request, Row, Source, tables
from avtool.data.tree import VIDEO, Tree, tree_of

PAGE = "https://research.google.com/audioset/download.html"
FILES = {
    "balanced": ("balanced_train_segments.csv", "train"),
    "unbalanced": ("unbalanced_train_segments.csv", "train"),
    "eval": ("eval_segments.csv", "test"),
}
GET = (
    f"get {{name}} from {PAGE} into {{source}}/annotations/ and the clips (balanced 22,160 and eval 20,371 clips, some"
    " 15 GB each at 360 lines; unbalanced 2,041,789, over 1 TB; the annotations are CC BY 4.0, the videos belong to"
    " their makers) into {source}/clips/ as ID_START_END.mp4, then: avtool prepare audioset {given}"
)
COLUMNS = ("id", "start", "end", "labels")
CLASS_COLUMNS = ("index", "mid", "display_name")


def read(source: Path, request: Request) -> Source:
    """The rows of the subset asked for under the folder ``source``."""
    annotations = source / "annotations"
    parts = [FILES[request.subset]] if request.subset else [FILES["balanced"], FILES["eval"]]
    for name in ("class_labels_indices.csv", *(name for name, _ in parts)):
        given = f"{source} --subset {request.subset}" if request.subset else source
        get = GET.format(name=name, source=source, given=given)
        tables.check_there(source, annotations / name, title="AudioSet", get=get)
    names = read_classes(annotations / "class_labels_indices.csv")
    clips = tree_of(source)
    missing = str(source / "clips") + os.sep
    hint = "use the file of the AudioSet page as it is: id, start, end and quoted labels"
    rows = []
    for name, split in parts:
        for line in tables.read_rows(annotations / name, COLUMNS, hint=hint, comment="#"):
            if not all(line[time].replace(".", "", 1).isdecimal() for time in ("start", "end")):
                raise line.error("start and end are not seconds", hint=hint)
            rows.append(_row(line, split, names, clips, missing))
    return Source(rows, list(names.values()))


def read_classes(path: Path) -> dict[str, str]:
    """{mid: name of the class}, in the order of their ids."""
    names: dict[str, str] = {}
    for line in tables.read_headed(path, CLASS_COLUMNS, hint="use the file of the AudioSet page as it is"):
        if line["index"] != str(len(names)):
            raise line.error(f"index is {line['index']}, {len(names)} is next")
        names[line["mid"]] = line["display_name"]
    return names


def _row(line: tables.Line, split: str, classes: dict[str, str], clips: Tree, missing: str) -> Row:
    """A class that is not in the list keeps its mid as its label."""
    video, start, end = line["id"], float(line["start"]), float(line["end"])
    usual = next(tables.clip_names(video, start, end))
    found = clips.find(VIDEO, chain(tables.clip_names(video, start, end), (video, f"Y{video}")))
    return Row(
        id=f"{video}_{start:06g}",
        split=split,
        labels=tuple(classes.get(mid.strip(), mid.strip()) for mid in line["labels"].split(",")),
        video=str(found or f"{missing}{usual}.mp4"),
        recording=video,
    )


COPIES = "agkphysics/AudioSet and its duplicates hold the sounds alone (FLAC in parquet, 2.44 TB), 2026-11"
DATASET = DataSet(read, subsets=tuple(FILES), copies=COPIES)
