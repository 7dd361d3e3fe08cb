"""AVSBench (Zhou et al., 2022, 2023) in its combined release: S4 = rows v1s, MS3 = rows v1m, AVSS = all.

``metadata.csv`` has the columns vid, uid, s_min, s_sec, a_obj, split, label; label is v1s, v1m or v2, a_obj joins
classes with _. A clip is the folder ``LABEL/UID``: audio.wav, frames/K.jpg, one a second (5 in v1s and v1m, 10 in
v2), and labels_semantic/K.png, the class of each pixel. Of v1s only the first frame has a mask in split train.
``label2idx.json``: the 71 classes, background first; a class's id is its place in it, and its value in a mask.
"""

from pathlib import Path
from typing import Any

from avtool.data.catalog import DataSet, Request, Row, Source, tables

PAGE = "https://github.com/OpenNLPLab/AVSBench"
GET = (
    f"ask for the combined release (AVSBench-semantic) as {PAGE} says (12,356 clips, some 30 GB with frames and masks;"
    " for the terms see there, the videos belong to their makers) and unpack it so that there are"
    " {source}/metadata.csv, {source}/label2idx.json and {source}/{{v1s,v1m,v2}}/UID/{{audio.wav,frames,"
    "labels_semantic}}, then: avtool prepare avsbench {source}"
)
COLUMNS = ("uid", "a_obj", "split", "label")
SECONDS = {"v1s": 5, "v1m": 5, "v2": 10}
LABELS = {"s4": ("v1s",), "ms3": ("v1m",), "avss": tuple(SECONDS)}


def read(source: Path, request: Request) -> Source:
    """The rows of ``metadata.csv`` that are of the subset asked for, else all, under the folder ``source``."""
    table, names = source / "metadata.csv", source / "label2idx.json"
    tables.check_there(source, table, names, title="AVSBench", get=GET.format(source=source))
    classes = tables.read_json(names, "a map of the classes to their numbers, one after the other", _in_order)
    rows = []
    hint = "use the metadata.csv of the combined release as it is"
    for line in tables.read_headed(table, COLUMNS, hint=hint):
        if line["label"] not in SECONDS:
            raise line.error(f"label is {line['label']}", hint=f"it is one of {', '.join(SECONDS)}")
        if line["label"] in LABELS[request.subset or "avss"]:
            rows.append(_row(source, line))
    return Source(rows, classes)


def _row(source: Path, line: tables.Line) -> Row:
    folder = source / line["label"] / line["uid"]
    seconds = range(SECONDS[line["label"]])
    only_first = (line["label"], line["split"]) == ("v1s", "train")
    return Row(
        id=line["uid"],
        split=line["split"],
        labels=tuple(dict.fromkeys(line["a_obj"].split("_"))),
        audio=folder / "audio.wav",
        frames=tuple(folder / "frames" / f"{k}.jpg" for k in seconds),
        masks=tuple(None if only_first and k else folder / "labels_semantic" / f"{k}.png" for k in seconds),
    )


def _in_order(numbers: dict[str, Any]) -> list[str]:
    ordered = sorted(numbers, key=numbers.__getitem__)
    first = numbers[ordered[0]] if ordered else 0
    if [numbers[name] for name in ordered] != list(range(first, first + len(ordered))):
        raise ValueError("a number is missing or there twice")
    return ordered


COPIES = (
    "none was found of either release, 2026-11; the page to download from did not open in 2025-07, and its authors say"
    " whom to write to (github.com/OpenNLPLab/AVSBench, issue 30)"
)
DATASET = DataSet(read, subsets=tuple(LABELS), copies=COPIES)
