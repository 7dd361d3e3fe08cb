"""VGGSound-Music: the clips of VGGSound's 49 instruments, and the pairs of test clips to mix and separate.

``annotations/vggmusic_eval_ss.csv`` names in its header source_1, source_2 (each ID_START), class_1, class_2
and sep_type (Easy: two instruments, Hard: the same one twice). Every pair is a row of split test: source_1, with
source_2 as its ``partner``; its ``view`` is {"sep_type": ..., "same_class": whether both are of one class}, by which
an evaluation can tell the pairs that no label tells apart. A class is VGGSound's label without "playing", with _ for
each space. Where ``annotations/vggsound.csv`` is there too, its clips of these classes and of split train are
the rows of split train. Clips lie as VGGSound's.
"""

from dataclasses import replace
from pathlib import Path

from avtool.data.catalog import DataSet, Request, Row, Source, classes_of, tables, vggsound

PAGE = "https://github.com/stoneMo/DeepAVFusion"
GET = (
    f"get vggmusic_eval_ss.csv (1,201 pairs) from the metadata of {PAGE} into the annotations of VGGSound, and the"
    " clips of its 49 instruments (about 35,000 of 10 s, some 25 GB at 360 lines; the annotations are CC BY 4.0, the"
    " videos belong to their makers) into clips/LABEL/ID_START_END.mp4 there, then: avtool prepare"
    " vggsound-music {vggsound}"
)
COLUMNS = ("source_1", "source_2", "class_1", "class_2", "sep_type")


def read(source: Path, request: Request) -> Source:
    """The pairs, then the clips to train on, under the folder ``source``."""
    table = source / "annotations" / "vggmusic_eval_ss.csv"
    get = GET.format(vggsound=source.with_name("vggsound"))
    tables.check_there(source, table, title="VGGSound-Music", get=get)
    tests: dict[str, Row] = {}
    partners: dict[str, Row] = {}
    for line in tables.read_headed(table, COLUMNS, hint="use the published list of pairs as it is"):
        for column in ("source_1", "source_2"):
            if not vggsound.is_clip_name(line[column]):
                raise line.error(f"{column} is {line[column]}, not ID_START with the start as six digits")
        if line["source_1"] in tests:
            raise line.error(f"{line['source_1']} is source_1 of a line above too", hint="one pair for each")
        labels = ["playing " + line[f"class_{k}"].replace("_", " ") for k in (1, 2)]
        row, partner = (
            vggsound.clip_row(source, line[f"source_{k}"], label, "test") for k, label in enumerate(labels, 1)
        )
        view = {"sep_type": line["sep_type"], "same_class": row.labels == partner.labels}
        tests[row.id] = replace(row, partner=partner.id, view=view)
        partners[partner.id] = partner
    rows = [*tests.values(), *(row for name, row in partners.items() if name not in tests)]
    classes = classes_of(rows)
    if (source / "annotations" / "vggsound.csv").is_file():
        clips = vggsound.read_clips(source)
        rows += [row for row in clips if row.split == "train" and row.labels[0] in classes]
    return Source(rows, classes)


COPIES = (
    f"the clips are VGGSound's, {vggsound.COPIES}; the pairs are not among them: get vggmusic_eval_ss.csv from the"
    f" metadata of {PAGE} into annotations"
)
DATASET = DataSet(read, copies=COPIES, mirror=vggsound.MIRROR)
