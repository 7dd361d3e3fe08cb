"""VGG-SS (Chen et al., 2021): the clips of VGGSound with boxes around what sounds, all of split test.

``annotations/vggss.json``: [{"file": "ID_START", "class": ..., "bbox": [[x1, y1, x2, y2], ...]}], drawn on the
frame at 5 s. Clips lie as VGGSound's; or, where there is a folder ``frames``, as that frame and its sound,
ID_START.jpg and ID_START.wav. A clip all of whose boxes are
broken is left out and named.
"""

from dataclasses import replace
from pathlib import Path

from avtool.data.catalog import NO_BOX, DataSet, Request, Row, Source, tables, vggsound
from avtool.data.tree import PICTURE, SOUND, VIDEO, tree_of

PAGE = "https://www.robots.ox.ac.uk/~vgg/research/lvs/"
GET = (
    f"get vggss.json from {PAGE} into {{source}}/annotations/ and its 5,158 clips of VGGSound (about 4 GB; the videos"
    " belong to their makers) into {source}/clips/CLASS/ID_START_END.mp4; where VGGSound lies already, put vggss.json"
    " into its annotations and give that folder: avtool prepare vggss {vggsound}"
)


def read(source: Path, request: Request) -> Source:
    """The rows of ``annotations/vggss.json`` under the folder ``source``."""
    table = source / "annotations" / "vggss.json"
    get = GET.format(source=source, vggsound=source.with_name("vggsound"))
    tables.check_there(source, table, title="VGG-SS", get=get)
    drawn = vggsound.read_boxes(table)
    rows = [_row(source, name, known) for name, known in drawn.items() if known.valid]
    notes = vggsound.notes_of(drawn)
    if empty := sorted(name for name, known in drawn.items() if not known.valid):
        notes[NO_BOX] = empty
    return Source(rows, sorted({known.label for known in drawn.values()}), notes)


def _row(source: Path, name: str, known: vggsound.Drawn) -> Row:
    row = vggsound.clip_row(source, name, known.label, "test")
    tree, names = tree_of(source), list(vggsound.file_names(name))
    image, audio = tree.find(PICTURE, names), tree.find(SOUND, names)
    if (source / "frames").is_dir() or (image and audio and not tree.find(VIDEO, names)):
        image = image or source / "frames" / f"{name}.jpg"
        audio = audio or source / "audio" / f"{name}.wav"
        return replace(row, video=None, image=image, audio=audio, boxes=known.valid)
    return replace(row, key_time=vggsound.BOXES_AT, boxes=known.valid)


COPIES = (
    f"the clips are VGGSound's, {vggsound.COPIES}; the boxes are not among them: get vggss.json from {PAGE}"
    " into annotations"
)
DATASET = DataSet(read, copies=COPIES, mirror=vggsound.MIRROR)
