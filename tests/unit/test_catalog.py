"""The data sets' annotation files, with the traps of the published ones: excerpts in their form, and the files."""

from __future__ import annotations

import json
import shutil
import tarfile
import tracemalloc
import wave
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from avtool.cli import app
from avtool.data import catalog, checks, parts
from avtool.data.catalog import (
    BROKEN_BOX,
    NO_BOX,
    Request,
    Source,
    flickr_soundnet,
    music,
    tables,
    vggsound,
)
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import job_of, prepare
from avtool.errors import DataError, TableError, UsageError
from avtool.registry import DATASETS
from tests import clips

PAIRS = "source_1,source_2,class_1,class_2,sep_type"


def read(name: str, folder: Path, subset: str | None = None) -> Source:
    return catalog.read_source(name, folder, Request(subset=subset))


def write(path: Path, text: str | bytes | object) -> Path:
    """Text or bytes as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(text) if not isinstance(text, str | bytes) else text
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def write_wav(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, clips.RATE, 0, "NONE", ""))
        file.writeframes((clips.tone(seconds) * 32767).astype("<i2").tobytes())


def real(folder: Path, **files: str) -> Path:
    """Real annotation files under their published names; __ in a keyword stands for a dot."""
    (folder / "annotations").mkdir(parents=True)
    for name, file in files.items():
        target = folder / "annotations" / name.replace("__", ".")
        shutil.copyfile(clips.TEST_DATA / "annotations" / file, target)
    return folder


# --- tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_table_is_read_whatever_its_line_ends_and_mark(tmp_path, ending, mark):
    text = ending.join(["-a,1", '"b, c", 2 ', "", "_d,3", ""])
    path = write(tmp_path / "a.csv", mark + text.encode())
    lines = list(tables.read_rows(path, ("name", "count"), hint=""))
    assert [line.values for line in lines] == [
        {"name": "-a", "count": "1"},
        {"name": "b, c", "count": "2"},
        {"name": "_d", "count": "3"},
    ]
    assert [line.number for line in lines] == [1, 2, 4]


HEADER = "id,split,label,video"
BAD_TABLES = [
    (b"", "is empty", "again"),
    (b"\n \n", "is empty", "again"),
    (HEADER.replace(",", ";") + "\na;train;x;a.mp4", "line 1: semicolons between the columns", "commas"),
    (HEADER.replace(",", "\t") + "\na\ttrain\tx\ta.mp4", "line 1: tabs between the columns", "commas"),
    (f"{HEADER}\na,train,caf\xe9,a.mp4".encode("latin-1"), "line 2: not UTF-8", "iconv -f LATIN1 -t UTF-8"),
    (f"{HEADER}\na,train,x,a.mp4".encode("utf-16"), "not UTF-8 but UTF-16", "mine-utf8.csv"),
    (f"{HEADER}\na,train,x,a.mp4".encode("utf-16-le"), "not UTF-8 but UTF-16", "iconv -f UTF-16"),
    (f"{HEADER}\na,train,nan,a.mp4", "line 2: label is nan", "leave empty"),
    (f"{HEADER},recording\na,train,x,a.mp4,NaN", "line 2: recording is NaN", "leave empty"),
    (f"{HEADER}\na,train,x,https://a.org/a.mp4", "line 2: https://a.org/a.mp4 is an address", "download"),
    (b"PK\3\4\x14\0\6\0\x08\0\0\0!\0\xff", "is a workbook or a zip", "commas"),
    (f'{HEADER}\na,train,"x,a.mp4\nb,train,y,b.mp4', "line 2: a quote is opened and not closed", "quoted"),
    (
        f'{HEADER}\na,train,x,"a\nb.mp4"',
        "line 2: a quote is opened and not closed on this line",
        "line break",
    ),
    (f"{HEADER}\na,train,x,a.mp4\nb,train,x\0,b.mp4", "line 3: a NUL byte", "again"),
    (f"{HEADER}\na\0,train,x,a.mp4", "line 2: a NUL byte", "again"),
    (f'{HEADER}\na,train,"x"y,a.mp4', "line 2: ", "quoted"),
    ("id,label,video\na,x,a.mp4", "line 1: no column split", "id,split,label,video"),
    (
        f"{HEADER}\na,train,x",
        r"line 2: not as many fields as the header has \(3, not 4\)",
        "none for video: an empty",
    ),
    (f"{HEADER}\na,train,x,y,a.mp4", r"not as many fields as the header has \(5, not 4\)", "quote fields"),
    ("id,split,label,image\na,train,x,a.png", "line 1: no column audio", "id,split,label,image,audio"),
    ("id,split,label,audio\na,train,x,a.wav", "line 1: no column image", "id,split,label,image,audio"),
    ("\n<!DOCTYPE html><html>" + 3000 * "x", "is an HTML page, not a table", "not its web page"),
    (
        "version https://git-lfs.github.com/spec/v1\noid 1",
        "is a Git LFS pointer, not a table",
        "git lfs pull",
    ),
    (b"\x1f\x8b\x08\0" + 300 * b"\0", "is an archive, not a table", "x.tar/clips/a.mp4"),
    ("-".join(3000 * "x") + ",y", r"no column id \(there are: x-x-.{150,} \.\.\. .*x, y\)", HEADER),
    (
        f"{HEADER},start\na,train,x,a.mp4,{3000 * 'x'}",
        "line 2: start is x{180,} .*x, seconds are needed",
        "1.5",
    ),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD_TABLES)
def test_a_table_that_cannot_be_read_names_file_line_and_way_out(tmp_path, text, message, hint):
    path = write(tmp_path / "mine.csv", text)
    with pytest.raises(TableError, match=message) as caught:
        read("manifest", path)
    assert caught.value.message.startswith(str(path)) and hint in caught.value.hint
    assert len(caught.value.message) < len(str(path)) + 350


@pytest.mark.parametrize("name", ["a.mp4", "a.TAR", "a.wav", "a.png"])
def test_what_is_no_table_is_named(tmp_path, name):
    """A video's first bytes may pass for UTF-16, and the zeros between the files of a tar."""
    path = tmp_path / name
    if name == "a.TAR":
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo("a.mp4"))
    else:
        path.write_bytes(b"\0\0\0\x20ftypisom" + bytes(1000))
    kind = {".mp4": "a video", ".TAR": "an archive", ".wav": "a sound", ".png": "a picture"}[path.suffix]
    with pytest.raises(TableError, match=f"{name} is {kind}, not a table") as caught:
        read("manifest", path)
    assert "a csv that lists the clips" in caught.value.hint


def test_rows_that_were_emptied_in_a_spreadsheet_are_none(tmp_path):
    path = write(tmp_path / "mine.csv", f"{HEADER}\na,train,x,a.mp4\n,,,\n")
    assert [row.id for row in read("manifest", path).rows] == ["a"]


BAD_BOXES = [
    ("[0.1,0.2,0.5,0.6]", "one flat list", "[[0.1, 0.2, 0.5, 0.6]]"),
    ("[[0.5,0.2,0.1,0.6]]", r"\[0.5, 0.2, 0.1, 0.6\] is not x1, y1, x2, y2", "[0.1, 0.2, 0.5, 0.6]"),
    ("[[0,0,0.5,0.5],[0.6,0.5,0.2,0.4]]", r"\[0.6, 0.5, 0.2, 0.4\]", "x + width"),
    ("[[10,20,200,100]]", "from 0 to 1", "divide pixels"),
    ("[[0.1,0.2,0.5]]", "is not x1, y1, x2, y2", "[[x1, y1, x2, y2], ...]"),
    ('[[0.1,0.2,0.5,"a"]]', "is not x1, y1, x2, y2", "[[x1, y1, x2, y2], ...]"),
    ('{"x1": 1}', "not a list of boxes", "[[x1, y1, x2, y2], ...]"),
    (f"[[0,0,1,{'9' * 400}]]", "from 0 to 1", "divide pixels"),
    (f"[[0,0,1,{'9' * 5000}]]", "boxes is not JSON: Exceeds the limit", "quote the field"),
    ("[" * 20_000, "boxes is not JSON: ", "quote the field"),
    ("[" * 500 + "]" * 500, "boxes is not JSON: nested more than 100 levels deep", "quote the field"),
    ("[" * 20_000 + "]" * 20_000, "boxes is not JSON: nested more than 100 levels deep", "quote the field"),
    ("[" * 90 + "]" * 90, r"boxes: \[\[\[.{80,100} is not x1", "[[x1, y1, x2, y2], ...]"),
]


@pytest.mark.parametrize(("boxes", "message", "hint"), BAD_BOXES)
def test_boxes_of_another_form_name_the_line_and_the_form(tmp_path, boxes, message, hint):
    quoted = boxes.replace('"', '""')
    text = f'{HEADER},boxes\na,train,x,a.mp4,"[[0,0,1,1]]"\nb,train,x,b.mp4,"{quoted}"\n'
    with pytest.raises(TableError, match=message) as caught:
        read("manifest", write(tmp_path / "mine.csv", text))
    assert "mine.csv, line 3: boxes" in caught.value.message and hint in caught.value.hint
    assert len(caught.value.message) < 400


def test_json_that_is_cut_off_or_of_another_form_names_the_file(tmp_path):
    path = write(tmp_path / "annotations" / "vggss.json", '[\n{"file": "a_000001",')
    with pytest.raises(TableError, match=r"vggss.json, line 2: not JSON"):
        read("vggss", tmp_path)
    for other in ({"a": 1}, [1], [{"file": "a_000001"}], [{"file": "a", "class": "x", "bbox": []}]):
        write(path, other)
        with pytest.raises(TableError, match=r"vggss.json is not a list of file, class and bbox"):
            read("vggss", tmp_path)
    write(path, "[" * 20_000 + "]" * 20_000)
    with pytest.raises(TableError, match=r"vggss.json is not a list .*nested more than 100 levels deep"):
        read("vggss", tmp_path)


# --- the list of data sets --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("manifest", "synth")])
@pytest.mark.parametrize("there", [False, True])
def test_a_source_that_is_not_there_says_what_to_get(tmp_path, name, there):
    source = tmp_path / "downloads"
    if there:
        source.mkdir()
    for subset in DATASETS[name].subsets or (None,):
        with pytest.raises(DataError, match=f"at {source}: there is no ") as caught:
            read(name, source, subset)
        hint = caught.value.hint
        for part in ("https://", " GB", "their makers", f"avtool prepare {name}", f"{tmp_path}/"):
            assert part in hint, part


def test_the_command_hands_the_subset_on(tmp_path):
    done = CliRunner().invoke(app, ["prepare", "music", str(tmp_path), "--subset", "solo21", "--out", "x"])
    assert done.exit_code == 1 and "MUSIC21_solo_videos.json" in done.stderr


def test_subsets_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("AVTOOL_DATA", str(tmp_path))
    outs = [
        job_of("music", tmp_path, None, Request(subset=subset), None).out for subset in (None, "solo", "duet")
    ]
    assert [out.name for out in outs] == ["music", "music-solo", "music-duet"]
    with pytest.raises(DataError) as caught:
        PreparedDataset(outs[2])
    assert caught.value.hint == "avtool prepare music --subset duet"


def test_subsets_are_of_the_table():
    with pytest.raises(UsageError, match="music has no subset trio") as caught:
        read("music", Path(), "trio")
    assert "solo, solo21, duet" in caught.value.hint
    with pytest.raises(UsageError, match="vggsound has no subset eval"):
        read("vggsound", Path(), "eval")


# --- VGGSound, VGG-SS, VGGSound-Music ---------------------------------------------------------------------


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_vggsound_csv_with_other_separators(tmp_path, separator):
    text = "a,1,dog,train\n" + separator.join(["b", "2", "cat, big", "train"])
    write(tmp_path / "annotations" / "vggsound.csv", text)
    with pytest.raises(TableError, match=r"line 2: (semicolons|tabs) between the columns"):
        read("vggsound", tmp_path)


VGGSS = [
    {
        "file": "-x_000030",
        "class": "donkey, ass braying",
        "bbox": [[0.1, 0.1, 0.5, 0.5], [0.5, 0, -2.88e16, 1]],
    },
    {"file": "_y_000001", "class": "police car (siren)", "bbox": [[0.3, 0.1, 0.3, 0.5]]},
]


def test_vggss_reads_vggsound_s_clips_or_their_frames(tmp_path):
    write(tmp_path / "annotations" / "vggss.json", VGGSS)
    found = read("vggss", tmp_path)
    (row,) = found.rows
    assert row.video == tmp_path / "clips/donkey__ass_braying/-x_000030_000040.mp4"
    assert (row.split, row.boxes, row.key_time) == ("test", ((0.1, 0.1, 0.5, 0.5),), 5.0)
    assert found.classes == ["donkey, ass braying", "police car (siren)"]
    assert found.notes == {BROKEN_BOX: ["-x_000030", "_y_000001"], NO_BOX: ["_y_000001"]}
    (tmp_path / "frames").mkdir()
    (row,) = read("vggss", tmp_path).rows
    assert row.files() == [tmp_path / "frames/-x_000030.jpg", tmp_path / "audio/-x_000030.wav"]


@clips.needs_test_data
def test_the_real_vggss(tmp_path):
    folder = real(tmp_path / "vgg", vggss__json="vggss.json", vggsound__csv="vggsound_89k_of_199k.csv")
    found = read("vggss", folder)
    assert (len(found.rows), len(found.notes[BROKEN_BOX]), len(found.notes[NO_BOX])) == (5156, 18, 2)
    listed = (clips.TEST_DATA / "annotations" / "vggss_test.csv").read_text().split()
    assert [name for name in listed if name not in found.notes[NO_BOX]] == [row.id for row in found.rows]
    whole = read("vggsound", folder)
    assert (len(whole.rows), len(whole.classes)) == (89089, 309) and whole.notes == {
        BROKEN_BOX: found.notes[BROKEN_BOX]
    }
    assert {row.id[0] for row in whole.rows} >= {"-"} and set(found.classes) <= set(whole.classes)
    lines = (folder / "annotations" / "vggsound.csv").read_bytes()
    write(folder / "annotations" / "vggsound.csv", lines.replace(b"\n", b"\r\n"))
    assert read("vggsound", folder) == whole


@clips.needs_test_data
def test_real_clips_of_one_video_are_of_one_recording(tmp_path):
    folder = real(tmp_path / "vgg", vggsound__csv="vggsound_89k_of_199k.csv", vggss__json="vggss.json")
    whole = read("vggsound", folder)
    rows = [row for row in whole.rows if row.split == "train"]
    labels = [whole.classes.index(row.labels[0]) for row in rows]
    shared = []
    for names in ([row.id for row in rows], [row.recording for row in rows]):
        held_out = parts.held_out(names, labels, 0.1)
        trained = {row.recording for row, out in zip(rows, held_out, strict=True) if not out}
        with_it = sum(row.recording in trained for row, out in zip(rows, held_out, strict=True) if out)
        shared.append((with_it, int(held_out.sum())))
    assert shared == [(2515, 7376), (0, 7364)]  # by clips, and by recordings
    drawn = read("vggss", folder).rows
    assert all(row.id.startswith(f"{row.recording}_") for row in drawn)
    assert len({row.recording for row in drawn}) < len(drawn)


def test_vggsound_music_pairs_clips_to_mix(tmp_path):
    lines = [
        PAIRS,
        "-a_000010,_b_000000,bass_drum,flute,Easy",
        "_b_000000,-a_000010,flute,bass_drum,Hard",
        'c_000003,d_000004,flute,"steel_guitar,_slide_guitar",Easy',
        "h_000001,i_000002,flute,flute,Hard",
    ]
    table = write(tmp_path / "annotations" / "vggmusic_eval_ss.csv", "\r\n".join(lines))
    found = read("vggsound-music", tmp_path)
    assert [(row.id, row.partner) for row in found.rows] == [
        ("-a_000010", "_b_000000"),
        ("_b_000000", "-a_000010"),
        ("c_000003", "d_000004"),
        ("h_000001", "i_000002"),
        ("d_000004", None),
        ("i_000002", None),
    ]
    assert [row.view and row.view["same_class"] for row in found.rows] == [
        False,
        False,
        False,
        True,
        None,
        None,
    ]
    assert found.rows[3].view == {"sep_type": "Hard", "same_class": True}
    assert found.rows[0].video == tmp_path / "clips/playing_bass_drum/-a_000010_000020.mp4"
    assert found.rows[4].video == tmp_path / "clips/playing_steel_guitar__slide_guitar/d_000004_000014.mp4"
    assert found.classes == ["playing bass drum", "playing flute", "playing steel guitar, slide guitar"]
    clip_rows = ["e,1,playing flute,train", "f,2,playing flute,test", "g,3,dog barking,train"]
    write(tmp_path / "annotations" / "vggsound.csv", "\n".join(clip_rows))
    trained = [row for row in read("vggsound-music", tmp_path).rows if row.split == "train"]
    assert [(row.id, row.labels) for row in trained] == [("e_000001", ("playing flute",))]
    for line, message in (
        (lines[1], "line 6: -a_000010 is source_1 of a line above"),
        ("a,b,c,d,e", "ID_START"),
    ):
        write(table, "\n".join([*lines, line]))
        with pytest.raises(TableError, match=message):
            read("vggsound-music", tmp_path)


@clips.needs_test_data
def test_the_real_pairs_of_vggsound_music(tmp_path):
    files = {"vggmusic_eval_ss__csv": "vggmusic_eval_ss.csv", "vggsound__csv": "vggsound_89k_of_199k.csv"}
    found = read("vggsound-music", real(tmp_path / "vgg", **files))
    tests = [row for row in found.rows if row.split == "test"]
    by_id = {row.id: row for row in tests}
    assert len(tests) == len(by_id) == 1201 and len(found.classes) == 49
    kinds = Counter((row.view["sep_type"], row.labels == by_id[row.partner].labels) for row in tests)
    assert kinds == {("Easy", False): 910, ("Hard", True): 291}
    known = {row.labels[0] for row in vggsound.read_clips(tmp_path / "vgg")}
    assert known.issuperset(found.classes)
    assert not by_id.keys() & {row.id for row in found.rows if row.split == "train"}


# --- AudioSet ---------------------------------------------------------------------------------------------

CLASSES = 'index,mid,display_name\n0,/m/zz,"Speech"\n1,/m/aa,"Male speech, man speaking"\n2,/m/q,Bark\n'
GOOGLE = '# made\n# num\n# YTID, x\n--a, 30.000, 40.000, "/m/aa,/m/zz"\n_b, 0.000, 9.500, "/m/q"\n'
COPY = '# num\n# YTID, x\n--a,30,40,"/m/aa,/m/zz"\n_b,0,9.5,/m/q\n'


def audio_set(folder: Path, text: str = GOOGLE) -> Path:
    write(folder / "annotations" / "class_labels_indices.csv", CLASSES)
    write(folder / "annotations" / "balanced_train_segments.csv", text)
    write(folder / "annotations" / "eval_segments.csv", "# YTID\ne,1,11,/m/unknown\n")
    return folder


def test_both_styles_of_audioset_say_the_same(tmp_path):
    google = read("audioset", audio_set(tmp_path), "balanced")
    assert google == read("audioset", audio_set(tmp_path, COPY.replace("\n", "\r\n")), "balanced")
    assert [row.id for row in google.rows] == ["--a_000030", "_b_000000"]
    assert [row.recording for row in google.rows] == ["--a", "_b"]
    assert google.rows[0].labels == ("Male speech, man speaking", "Speech")
    assert google.classes == ["Speech", "Male speech, man speaking", "Bark"]  # in the order of their ids
    both = read("audioset", tmp_path).rows
    assert [(row.split, row.labels[-1]) for row in both[1:]] == [("train", "Bark"), ("test", "/m/unknown")]


@pytest.mark.parametrize(
    "name",
    [
        "--a.mp4",
        "--a_30_40.mp4",
        "--a_30.000_40.000.webm",
        "--a_30000_40000.mkv",
        "--a_000030_000040.MP4",
        "--a_30.mp4",
        "Y--a.mp4",
    ],
)
@pytest.mark.parametrize("folder", ["clips", "clips/balanced_train_segments"])
def test_audioset_clips_are_found_under_the_names_in_use(tmp_path, name, folder):
    path = write(audio_set(tmp_path) / folder / name, "")
    write(tmp_path / "clips" / "--a_90_100.mp4", "")  # another segment of the video
    first, second = read("audioset", tmp_path, "balanced").rows
    assert (first.video, second.video) == (str(path), str(tmp_path / "clips/_b_000000_000010.mp4"))
    assert first.files() == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1,11", "line 1: not id,start,end,labels"),
        ("a,1,11,/m/q,/m/aa", "line 1: not id,start,end,labels"),
        ("a,soon,11,/m/q", "line 1: start and end are not seconds"),
        ("a;1;11;/m/q", "line 1: semicolons"),
    ],
)
def test_audioset_segments_that_are_wrong_name_the_line(tmp_path, text, message):
    with pytest.raises(TableError, match=message):
        read("audioset", audio_set(tmp_path, text), "balanced")


def test_rows_of_audioset_are_small(tmp_path):
    count = 50_000
    lines = (f'v{k:010d}, {k}.000, {k + 10}.000, "/m/aa,/m/zz"\n' for k in range(count))
    audio_set(tmp_path, "".join(lines))
    write(tmp_path / "clips" / "v0000000007_7.mp4", "")
    tracemalloc.start()
    found = read("audioset", tmp_path, "balanced")
    held, peak = tracemalloc.get_traced_memory()
    flags = checks.row_flags(found.rows, found.classes)
    more = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    assert len(found.rows) == len(flags) == count and found.rows[7].video.endswith("v0000000007_7.mp4")
    assert held < 550 * count and peak < 750 * count and more < 30 * count  # bytes; a Path takes over 300
    assert flags == [[]] * count


@clips.needs_test_data
def test_the_real_audioset_lists(tmp_path):
    names = "audioset_class_labels_indices.csv"
    styles = [
        read(
            "audioset",
            real(
                tmp_path / style,
                class_labels_indices__csv=names,
                balanced_train_segments__csv=f"audioset_balanced_{style}_style.csv",
            ),
            "balanced",
        )
        for style in ("google", "copy")
    ]
    for found in styles:
        assert len(found.rows) == 400 and len(found.classes) == 527
        assert found.classes[:2] == ["Speech", "Male speech, man speaking"]
        assert {label for row in found.rows for label in row.labels} <= set(found.classes)
    assert [(row.id, row.labels) for row in styles[0].rows] == [
        (row.id, row.labels) for row in styles[1].rows
    ]


# --- MUSIC ------------------------------------------------------------------------------------------------


def test_music_solos_are_whole_videos(tmp_path):
    path = tmp_path / "annotations" / "MUSIC_solo_videos.json"
    write(path, {"version": 1.0, "videos": {"flute": ["-a", "b"], "cello": ["c"]}})
    there = write(tmp_path / "videos" / "flute_downloads" / "-a.webm", "")
    found = read("music", tmp_path)
    assert [row.files() for row in found.rows] == [
        [there],
        [tmp_path / "videos/b.mp4"],
        [tmp_path / "videos/c.mp4"],
    ]
    assert [row.labels for row in found.rows] == [("flute",), ("flute",), ("cello",)]
    assert found.classes == ["cello", "flute"]  # of the list, whatever folders are there
    write(path, {"videos": {"flute": "a"}})
    with pytest.raises(TableError, match="flute has no list of ids"):
        read("music", tmp_path)


def test_boxes_of_duets_are_x_y_width_height(tmp_path):
    entry = {"class_src1": "cello", "bbox_src1": [0.1, 0.3, 0.2, 0.5], "class_src2": "cello"}
    entries = [
        {"file": "a_000_00000", **entry, "bbox_src2": [0.5, 0.5, 0.25, 0.25]},
        {"file": "a_000_00007", **entry, "bbox_src2": [0.5, 0.5, 0.75, 0.25]},
    ]
    write(tmp_path / "annotations" / "music_duet.json", entries)
    found = read("music", tmp_path, "duet")
    (row,) = found.rows
    np.testing.assert_allclose(row.boxes, [[0.1, 0.3, 0.3, 0.8], [0.5, 0.5, 0.75, 0.75]])
    assert row.labels == ("cello", "cello") and row.files() == [
        tmp_path / "frames/a_000_00000.jpg",
        tmp_path / "audio/a_000_00000.wav",
    ]
    assert found.notes[NO_BOX] == ["a_000_00007"]


@clips.needs_test_data
def test_the_real_lists_of_music(tmp_path):
    names = ("MUSIC_solo_videos", "MUSIC21_solo_videos", "music_duet")
    folder = real(tmp_path / "music", **{f"{name}__json": f"{name}.json" for name in names})
    solo, more, duet = (read("music", folder, subset) for subset in ("solo", "solo21", "duet"))
    assert [len(found.rows) for found in (solo, more, duet)] == [536, 1164, 1020]
    assert [len(found.classes) for found in (solo, more, duet)] == [11, 21, 6] and not duet.notes
    splits = {row.id: row.split for row in more.rows}
    assert all(splits.get(row.id, row.split) == row.split for row in solo.rows)
    for found in (solo, more):
        assert 0.07 < Counter(row.split for row in found.rows)["test"] / len(found.rows) < 0.13
    width = duet.rows[0].boxes[0][2] - duet.rows[0].boxes[0][0]
    assert width == pytest.approx(0.20559210526315788)
    assert len({row.recording for row in duet.rows}) == 6


# --- Flickr-SoundNet --------------------------------------------------------------------------------------


def annotation(*boxes: tuple[object, ...]) -> str:
    nodes = "".join(
        "<annotator><bbox><class>0</class>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in zip("abcd", box, strict=False))
        + "</bbox></annotator>"
        for box in boxes
    )
    return f"<root><file>x</file>{nodes}</root>"


def flickr(folder: Path) -> Path:
    write(folder / "annotations" / "flickr_test.csv", "100,202\r\n200,0\r\n300,5\r\n")
    boxes = {
        "100": [(64, 0, 192, 128), (128, 0, 300, 128), (64, 0, 192, 128)],
        "200": [(9, 9, 9, 60), ("?", 1, 2, 3), (1, 2)],
        "300": [(0, 0, 256, 256), (50, 0, 20, 10)],
    }
    for name, drawn in boxes.items():
        write(folder / "annotations" / "Annotations" / f"{name}.xml", annotation(*drawn))
    return folder


def test_flickr_soundnet_keeps_the_boxes_of_all_annotators(tmp_path):
    found = read("flickr-soundnet", flickr(tmp_path))
    first, second = found.rows
    assert first.boxes == ((0.25, 0, 0.75, 0.5), (0.5, 0, 1, 0.5), (0.25, 0, 0.75, 0.5))
    assert (first.id, first.view, first.labels) == ("100", flickr_soundnet.CONSENSUS, ())
    assert second.boxes == ((0, 0, 1, 1),)
    assert found.notes == {BROKEN_BOX: ["200", "300"], NO_BOX: ["200"]}
    write(tmp_path / "annotations" / "Annotations" / "300.xml", "<root>")
    with pytest.raises(TableError, match=r"300.xml is not XML"):
        read("flickr-soundnet", tmp_path)
    (tmp_path / "annotations" / "Annotations" / "300.xml").unlink()
    with pytest.raises(TableError, match=r"flickr_test.csv, line 3: there is no .*300.xml"):
        read("flickr-soundnet", tmp_path)


def test_flickr_soundnet_is_prepared_without_labels(tmp_path):
    folder = flickr(tmp_path / "flickr")
    (folder / "frames").mkdir()
    cv2.imwrite(str(folder / "frames" / "100.jpg"), np.full((60, 80, 3), 90, np.uint8))
    write_wav(folder / "audio" / "100.wav", 4.0)
    report = prepare("flickr-soundnet", folder, out=tmp_path / "out")
    assert (report.prepared, report.missing) == (1, 1)
    record = PreparedDataset(tmp_path / "out", "test").record(0)
    assert len(record.boxes) == 3 and record.label_ids == ()


def test_flickr_soundnet_in_the_folders_of_its_makers(tmp_path):
    folder = flickr(tmp_path)
    for name in ("Data/0/100.jpg", "Data/0/100.mp3", "Data/7/300.mp4"):
        write(folder / name, "")
    first, second = read("flickr-soundnet", folder).rows
    assert first.files() == [folder / "Data/0/100.jpg", folder / "Data/0/100.mp3"]
    assert second.files() == [folder / "Data/7/300.mp4"] and second.view == flickr_soundnet.CONSENSUS


@clips.needs_test_data
def test_the_real_list_of_flickr_soundnet(tmp_path):
    folder = real(tmp_path / "flickr", flickr_test__csv="flickr_test.csv")
    names = [line.split(",")[0] for line in (folder / "annotations" / "flickr_test.csv").read_text().split()]
    for name in names:
        write(folder / "annotations" / "Annotations" / f"{name}.xml", annotation((0, 0, 128, 128)))
    assert [row.id for row in read("flickr-soundnet", folder).rows] == names and len(names) == 250


# --- AVSBench ---------------------------------------------------------------------------------------------

METADATA = """vid,uid,s_min,s_sec,a_obj,split,label
-a,-a_0,0,0,dog,train,v1s
b,b_0,0,0,dog,test,v1s
c,c_4,0,4,man_emergency-car_man,train,v1m
d,d_9,1,9,man,val,v2
"""


def avs_bench(folder: Path) -> Path:
    write(folder / "metadata.csv", METADATA)
    write(folder / "label2idx.json", {"background": 1, "man": 4, "dog": 2, "emergency-car": 3})
    return folder


@pytest.mark.parametrize(
    ("subset", "names"),
    [("s4", ["-a_0", "b_0"]), ("ms3", ["c_4"]), ("avss", ["-a_0", "b_0", "c_4", "d_9"])],
)
def test_subsets_of_avsbench(tmp_path, subset, names):
    found = read("avsbench", avs_bench(tmp_path), subset)
    assert [row.id for row in found.rows] == names
    assert found.classes == [
        "background",
        "dog",
        "emergency-car",
        "man",
    ]  # a class's id is its value in masks


def test_frames_and_masks_of_avsbench(tmp_path):
    train, test, several, long = read("avsbench", avs_bench(tmp_path)).rows
    assert train.frames == tuple(tmp_path / "v1s/-a_0/frames" / f"{k}.jpg" for k in range(5))
    assert train.masks == (tmp_path / "v1s/-a_0/labels_semantic/0.png", None, None, None, None)
    assert test.masks == tuple(tmp_path / "v1s/b_0/labels_semantic" / f"{k}.png" for k in range(5))
    assert several.labels == ("man", "emergency-car") and None not in several.masks
    assert len(long.frames) == len(long.masks) == 10 and long.audio == tmp_path / "v2/d_9/audio.wav"


def test_avsbench_is_prepared_with_a_mask_for_each_frame(tmp_path):
    folder = avs_bench(tmp_path / "avs")
    for row in read("avsbench", folder, "s4").rows:
        for picture in (*row.frames, *row.masks):
            if picture is not None:
                picture.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(picture), np.full((40, 60), 1 + int(picture.stem), np.uint8))
        write_wav(row.audio, 5.0)
    report = prepare("avsbench", folder, out=tmp_path / "out", subset="s4")
    assert (report.prepared, report.refused) == (2, 0)
    dataset = PreparedDataset(tmp_path / "out", "all")
    assert dataset.record(0).masked == (0,) and dataset.record(1).masked == (0, 1, 2, 3, 4)
    assert [int(dataset.mask(1, k).max()) for k in range(5)] == [1, 2, 3, 4, 5]
    assert dataset.record(0).label_ids == (1,)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.csv", METADATA.replace("v1m", "v3"), "line 4: label is v3"),
        ("metadata.csv", METADATA.replace("a_obj", "obj"), "line 1: no column a_obj"),
        ("label2idx.json", {"background": 1, "dog": 3}, "a number is missing"),
        ("label2idx.json", ["background"], "is not a map of the classes"),
    ],
)
def test_avsbench_files_that_are_wrong(tmp_path, name, text, message):
    avs_bench(tmp_path)
    write(tmp_path / name, text)
    with pytest.raises(TableError, match=message):
        read("avsbench", tmp_path)


S4 = "name,start,category,split\n-_wznbUu3DY,0,helicopter,train\n0d9u2CymIxc,0,helicopter,test\n"
MS3 = "video_id,split\njlhuZfcw61w,train\nxv7eM6-UmkY_36,val\n0d9u2CymIxc,test\n"


def first_release(folder: Path) -> Path:
    write(folder / "Single-source" / "s4_meta_data.csv", S4)
    write(folder / "Multi-sources" / "ms3_meta_data.csv", MS3)
    picture, mask = np.full((30, 40, 3), 90, np.uint8), np.zeros((30, 40), np.uint8)
    mask[:10] = 255
    for name, split, category in (
        ("-_wznbUu3DY", "train", "helicopter"),
        ("0d9u2CymIxc", "test", "helicopter"),
    ):
        data, where = folder / "Single-source" / "s4_data", f"{split}/{category}"
        write_wav(data / "audio_wav" / where / f"{name}.wav", 5.0)
        for k in range(1, 6):
            write(
                data / "visual_frames" / where / name / f"{name}_{k}.png",
                cv2.imencode(".png", picture)[1].tobytes(),
            )
            if k == 1 or split == "test":
                write(
                    data / "gt_masks" / where / name / f"{name}_{k}.png",
                    cv2.imencode(".png", mask)[1].tobytes(),
                )
    for name, split in (("xv7eM6-UmkY_36", "val"), ("0d9u2CymIxc", "test")):
        data = folder / "Multi-sources" / "ms3_data"
        write_wav(data / "audio_wav" / split / f"{name}.wav", 5.0)
        for k in range(1, 6):
            write(
                data / "visual_frames" / name / f"{name}.mp4_{k}.png",
                cv2.imencode(".png", picture)[1].tobytes(),
            )
            write(
                data / "gt_masks" / split / name / f"{name}_{k}.png", cv2.imencode(".png", mask)[1].tobytes()
            )
    return folder


def test_the_first_release_of_avsbench(tmp_path):
    folder = first_release(tmp_path / "avsbench_data")
    single, several = (read("avsbench", folder, subset) for subset in ("s4", "ms3"))
    assert single.classes == ["helicopter"] and several.classes == []
    assert [row.recording for row in several.rows] == ["jlhuZfcw61w", "xv7eM6-UmkY", "0d9u2CymIxc"]
    first, second = single.rows
    assert (len(first.frames), first.masks[1:]) == (5, (None,) * 4) and None not in second.masks
    alike = several.rows[2]  # of the same name as the second, in another folder
    for row, part in ((second, "Single-source"), (alike, "Multi-sources")):
        assert all(path.is_file() and part in path.parts for path in row.files())
    report = prepare("avsbench", folder, out=tmp_path / "out")
    assert (report.prepared, report.missing, report.refused) == (4, 1, 0)
    dataset = PreparedDataset(tmp_path / "out", "all")
    assert dataset.record(1).masked == (0, 1, 2, 3, 4) and dataset.mask(1, 0).max() == 255
    (folder / "Multi-sources" / "ms3_meta_data.csv").unlink()
    with pytest.raises(DataError, match=r"has no ms3_meta_data\.csv"):
        read("avsbench", folder, "ms3")


@clips.needs_test_data
def test_the_real_lists_of_avsbench_s_first_release(tmp_path):
    for name in ("s4", "ms3"):
        file = f"avsbench_{name}_meta_data.csv"
        shutil.copyfile(clips.TEST_DATA / "annotations" / file, tmp_path / file.removeprefix("avsbench_"))
    single, several = (read("avsbench", tmp_path, subset) for subset in ("s4", "ms3"))
    assert (len(single.rows), len(single.classes), len(several.rows)) == (4932, 23, 424)
    for found, odd in ((single, []), (several, ["baby_dog_2_1"])):
        assert [row.recording for row in found.rows if len(row.recording) != 11] == odd
    assert len({row.id for row in single.rows}) == 4932


@clips.needs_test_data
def test_the_real_classes_of_avsbench(tmp_path):
    avs_bench(tmp_path)
    shutil.copyfile(clips.TEST_DATA / "annotations" / "avsbench_label2idx.json", tmp_path / "label2idx.json")
    classes = read("avsbench", tmp_path).classes
    assert len(classes) == 71 and classes[:2] == ["background", "accordion"] and classes[-1] == "woman"
    assert not [name for name in classes if "_" in name]  # a_obj joins classes with it


def test_the_usual_name_of_a_segment_and_the_split_of_a_video():
    assert next(tables.clip_names("a", 30.0, 40.0)) == "a_000030_000040"
    assert {music.split_of(f"video{k}") for k in range(40)} == {"train", "test"}
    pinned = {"0nib7bMm8BA": "train", "6zlMP_kQ_-w": "train", "M1pPtg6a_g8": "test"}
    assert {name: music.split_of(name) for name in pinned} == pinned
