"""Flickr-SoundNet's test set (Senocak et al., 2018): 250 pictures with sound and boxes by several annotators.

``annotations/flickr_test.csv`` (no header): id, and a number that is not used. ``annotations/Annotations/ID.xml``
has, under its root, nodes that hold ``bbox``, one for each box of an annotator: a first sub-node to skip, then
xmin, ymin, xmax, ymax in 256ths of the frame. The picture ID.jpg and the sound ID.wav, or the clip ID.mp4 (its
middle frame), lie anywhere under the folder, as in ``frames/`` and ``audio/`` or in ``Data/0`` to ``Data/9``.

A row's ``boxes`` are those of all annotators, and its ``view`` is {"truth": "consensus"}: the true map is the sum
of the boxes / 2, clipped to 1, so a pixel that one annotator marked counts half. There are no labels.
"""

from pathlib import Path
from xml.etree import ElementTree

from avtool.data.catalog import BROKEN_BOX, NO_BOX, Box, DataSet, Request, Row, Source, tables, valid_box
from avtool.data.tree import PICTURE, SOUND, VIDEO, tree_of
from avtool.errors import TableError

PAGE = "https://github.com/ardasnck/learning_to_localize_sound_source"
LIST_PAGE = "https://github.com/stoneMo/EZ-VSL"
GET = (
    f"get the annotated pairs from {PAGE} (of 5,000 pairs the 250 of the test set take about 1 GB; for research only,"
    " pictures and sounds belong to their makers on Flickr) and flickr_test.csv from the metadata of"
    f" {LIST_PAGE}: the list into {{source}}/annotations/, XML files into {{source}}/annotations/Annotations/, pictures"
    " into {source}/frames/ID.jpg, sounds into {source}/audio/ID.wav, then: avtool prepare flickr-soundnet {source}"
)
UNITS = 256
COLUMNS = ("id", "number")
CONSENSUS = {"truth": "consensus"}


def read(source: Path, request: Request) -> Source:
    """The rows of ``annotations/flickr_test.csv`` under the folder ``source``."""
    table, drawn = source / "annotations" / "flickr_test.csv", source / "annotations" / "Annotations"
    tables.check_there(source, table, drawn, title="Flickr-SoundNet", get=GET.format(source=source))
    rows, tree = [], tree_of(source)
    notes: dict[str, list[str]] = {}
    for line in tables.read_rows(table, COLUMNS, hint="use the published list as it is: it has no header"):
        name = line["id"]
        if not (drawn / f"{name}.xml").is_file():
            hint = "get the boxes again, one file is missing"
            raise line.error(f"there is no {drawn}/{name}.xml", hint=hint)
        boxes = read_boxes(drawn / f"{name}.xml")
        valid = tuple(box for box in boxes if box is not None)
        if len(valid) < len(boxes):
            notes.setdefault(BROKEN_BOX, []).append(name)
        if not valid:
            notes.setdefault(NO_BOX, []).append(name)
            continue
        image, audio = tree.find(PICTURE, [name]), tree.find(SOUND, [name])
        video = None if image and audio else tree.find(VIDEO, [name])
        if video is None:
            image = image or source / "frames" / f"{name}.jpg"
            audio = audio or source / "audio" / f"{name}.wav"
            rows.append(Row(name, "test", (), image=image, audio=audio, boxes=valid, view=CONSENSUS))
        else:
            rows.append(Row(name, "test", (), video=video, boxes=valid, view=CONSENSUS))
    return Source(rows, [], notes)


def read_boxes(path: Path) -> list[Box | None]:
    """The boxes of all annotators as fractions of the frame, clipped to it; None for one that is no box."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise TableError(f"{path} is not XML: {error}", hint="get the file again") from error
    return [_box(node) for node in root.iter("bbox")]


def _box(node: ElementTree.Element) -> Box | None:
    try:
        corners = [min(max(float(part.text or "") / UNITS, 0.0), 1.0) for part in list(node)[1:5]]
    except ValueError:
        return None
    return valid_box(corners)


COPIES = (
    "cssen/audio-dataset-flickr-soundnet and UnFaZeD07/FlickrSoundNet bear its name, but do not say what they hold,"
    " 2026-11"
)
DATASET = DataSet(read, copies=COPIES)
