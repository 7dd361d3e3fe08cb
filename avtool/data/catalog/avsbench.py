"""AVSBench (Zhou et al., 2022, 2023) in its combined release: S4 = rows v1s, MS3 = rows v1m, AVSS = all.

``metadata.csv`` has the columns vid, uid, s_min, s_sec, a_obj, split, label; label is v1s, v1m or v2, a_obj joins
classes with _. A clip is the folder ``LABEL/UID``: audio.wav, frames/K.jpg, one a second (5 in v1s and v1m, 10 in
v2), and labels_semantic/K.png, the class of each pixel. Of v1s only the first frame has a mask in split train.
``label2idx.json``: the 71 classes, background first; a class's id is its place in it, and its value in a mask.

Of the first release there are ``s4_meta_data.csv`` (name, start, category, split) and ``ms3_meta_data.csv`` (video_id,
split), without classes in MS3, and of each clip, wherever they lie, NAME.wav, the frames NAME_1.png (in MS3
NAME.mp4_1.png) to 5, and under the same names, in a folder with "mask" in its name, the masks of all that sounds.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from avtool.data.catalog import DataSet, Request, Row, Source, classes_of, tables, video_of
from avtool.data.tree import PICTURE, SOUND, TABLE, Tree, tree_of
from avtool.errors import DataError

PAGE = "https://github.com/OpenNLPLab/AVSBench"
GET = (
    f"ask for the combined release (AVSBench-semantic) as {PAGE} says (12,356 clips, some 30 GB with frames and masks;"
    " for the terms see there, the videos belong to their makers) and unpack it so that there are"
    " {source}/metadata.csv, {source}/label2idx.json and {source}/{{v1s,v1m,v2}}/UID/{{audio.wav,frames,"
    "labels_semantic}}, then: avtool prepare avsbench {source}"
)
COLUMNS = ("vid", "uid", "a_obj", "split", "label")
FIRST = {"s4": ("name", "start", "category", "split"), "ms3": ("video_id", "split")}
SECONDS = {"v1s": 5, "v1m": 5, "v2": 10}
LABELS = {"s4": ("v1s",), "ms3": ("v1m",), "avss": tuple(SECONDS)}


def read(source: Path, request: Request) -> Source:
    """The rows of ``metadata.csv`` that are of the subset asked for, else all, under the folder ``source``."""
    tree = tree_of(source)
    firsts = {subset: tree.find(TABLE, [f"{subset}_meta_data"]) for subset in FIRST}
    table, names = source / "metadata.csv", source / "label2idx.json"
    if not table.is_file() and (there := [found for found in firsts.values() if found]):
        wanted = request.subset if request.subset in FIRST else None
        if wanted and firsts[wanted] is None:
            raise DataError(
                f"{there[0].parent} has no {wanted}_meta_data.csv", hint=GET.format(source=source)
            )
        rows = [
            row
            for subset, at in firsts.items()
            if at and wanted in (None, subset)
            for row in _first(at, subset, tree)
        ]
        return Source(rows, classes_of(rows))
    tables.check_there(source, table, names, title="AVSBench", get=GET.format(source=source))
    classes = tables.read_json(names, "a map of the classes to their numbers, one after the other", _in_order)
    rows = []
    hint = "use the metadata.csv of the combined release as it is"
    for line in tables.read_headed(table, COLUMNS, hint=hint):
        if line["label"] not in SECONDS:
            raise line.error(f"label is {line['label']}", hint=f"it is one of {', '.join(SECONDS)}")
        if line["label"] in LABELS[request.subset or "avss"]:
            rows.append(_row(tree.folder(line["uid"], within=line["label"]), source, line))
    return Source(rows, classes)


def _row(found: Path | None, source: Path, line: tables.Line) -> Row:
    folder = found or source / line["label"] / line["uid"]
    seconds = range(SECONDS[line["label"]])
    only_first = (line["label"], line["split"]) == ("v1s", "train")
    return Row(
        id=line["uid"],
        split=line["split"],
        labels=tuple(dict.fromkeys(line["a_obj"].split("_"))),
        audio=folder / "audio.wav",
        frames=tuple(folder / "frames" / f"{k}.jpg" for k in seconds),
        masks=tuple(None if only_first and k else folder / "labels_semantic" / f"{k}.png" for k in seconds),
        recording=line["vid"],
    )


def _first(table: Path, subset: str, tree: Tree) -> Iterator[Row]:
    """The rows of the first release's table of a ``subset``."""
    for line in tables.read_headed(table, FIRST[subset], hint="use the table of the first release as it is"):
        name, category, split = line[FIRST[subset][0]], line.values.get("category", ""), line["split"]
        home, near = table.parent / f"{subset}_data", {category, split, name}

        def best(found: Iterable[str], otherwise: Path, home: Path = home, near: set[str] = near) -> Path:
            """Both sets have files of the same names."""
            paths = [Path(one) for one in found]
            return max(
                paths, key=lambda one: (home.name in one.parts, len(near & {*one.parts})), default=otherwise
            )

        frames, masks = list[Path](), list[Path | None]()
        for k in range(1, 6):
            pictures = (*tree.all(PICTURE, f"{name}_{k}"), *tree.all(PICTURE, f"{name}.mp4_{k}"))
            drawn = [one for one in pictures if "mask" in str(Path(one).relative_to(tree.root).parent)]
            seen = (one for one in pictures if one not in drawn)
            frames.append(best(seen, home / "visual_frames" / split / category / name / f"{name}_{k}.png"))
            mask = best(drawn, home / "gt_masks" / split / category / name / f"{name}_{k}.png")
            masks.append(None if k > 1 and (subset, split) == ("s4", "train") else mask)
        sound = best(tree.all(SOUND, name), home / "audio_wav" / split / category / f"{name}.wav")
        labels = (category,) if category else ()
        yield Row(
            name, split, labels, audio=sound, frames=(*frames,), masks=(*masks,), recording=video_of(name)
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
