"""Sources as people have them: clips under other names, in archives, in damaged ones, in pieces of them."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from avtool.data import archives, checks
from avtool.data import prepare as module
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.data.spool import Spool
from avtool.data.tree import SOUND, VIDEO, Tree
from avtool.errors import UsageError
from tests import clips

CONTENT = {
    f"top/of é{k}{'x' * 120 if k == 3 else ''}.mp4": random.Random(k).randbytes(4000 + 777 * k)
    for k in range(8)
}


def tar(path: Path, content: dict[str, bytes] = CONTENT, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, data in content.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def zipped(path: Path, content: dict[str, bytes] = CONTENT, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def in_pieces(path: Path, ends: list[str]) -> Path:
    """The file, cut in pieces with these names; the first."""
    data = path.read_bytes()
    size = -(-len(data) // len(ends))
    for k, end in enumerate(ends):
        path.with_name(f"{path.name}.{end}").write_bytes(data[k * size : (k + 1) * size])
    path.unlink()
    return path.with_name(f"{path.name}.{ends[0]}")


def contents(archive: Path, folder: Path) -> dict[str, bytes]:
    """What can be read of an archive, in the way that a preparation reads it."""
    found, spool, known = {}, Spool(folder), archives.listing(archive)
    assert known is not None
    for _, held in spool.held((k, [archive / name]) for k, name in enumerate(known.members)):
        ((path, place),) = held.items()
        file = place if isinstance(place, Path) else folder / "taken"
        if not isinstance(place, Path):
            archives.read_member(*place, file)
        found[path[len(str(archive)) + 1 :]] = file.read_bytes()
        spool.done(held)
    (folder / "taken").unlink(missing_ok=True)
    assert not list(folder.iterdir())  # nothing is left of what was taken out
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda path: tar(path / "a.tar"),
        lambda path: tar(path / "a.tar.gz", mode="w:gz"),
        lambda path: tar(path / "a.tbz2", mode="w:bz2"),
        lambda path: tar(path / "a of another name.xx", mode="w:xz"),
        lambda path: tar(path / "a", mode="w:gz"),
        lambda path: zipped(path / "a.zip"),
        lambda path: zipped(path / "a.bin", method=zipfile.ZIP_STORED),
        lambda path: in_pieces(tar(path / "a.tar.gz", mode="w:gz"), ["partaa", "partab", "partac"]),
        lambda path: in_pieces(tar(path / "a.tar"), ["00", "01", "02", "03"]),
        lambda path: in_pieces(zipped(path / "a.zip"), ["001", "002"]),
    ],
)
def test_an_archive_is_known_by_its_content_and_read_in_place(make, tmp_path):
    archive, folder = make(tmp_path), tmp_path / "spool"
    folder.mkdir()
    assert archives.first_pieces(list(tmp_path.glob("a*"))) == [archive]
    assert archives.listing(archive).problem == ""
    assert contents(archive, folder) == CONTENT


def cut(path: Path, end: int | None = None) -> Path:
    path.write_bytes(path.read_bytes()[: end or 30_000])
    return path


def spoiled_header(path: Path) -> Path:
    data, third = bytearray(path.read_bytes()), list(archives.listing(path).members.values())[2].offset
    data[third - 512 : third - 412] = b"z" * 100
    path.write_bytes(data)
    os.utime(path, ns=(0, 0))
    return path


def without(path: Path, piece: str) -> Path:
    path.with_name(path.name.replace("partaa", piece)).unlink()
    return path


@pytest.mark.parametrize(
    ("make", "readable", "problem"),
    [
        (lambda path: cut(tar(path / "a.tar")), range(2, 8), "it is cut short"),
        (lambda path: cut(tar(path / "a.tar.gz", mode="w:gz")), range(2, 8), "it breaks off"),
        (lambda path: cut(tar(path / "a.tar.xz", mode="w:xz"), 20_000), range(2, 8), "it breaks off"),
        (lambda path: spoiled_header(tar(path / "a.tar")), [7], "it is damaged after file 2"),
        (lambda path: cut(zipped(path / "a.zip")), range(2, 8), "its directory is missing"),
        (lambda path: cut(zipped(path / "a.zip"), -30), [8], "its directory is missing"),
        (
            lambda path: without(
                in_pieces(tar(path / "a.tgz", mode="w:gz"), ["partaa", "partab", "partac"]), "partab"
            ),
            range(1, 5),
            "its piece 2 is missing",
        ),
    ],
)
def test_of_a_damaged_archive_is_read_what_can_be(make, readable, problem, tmp_path):
    archive, folder = make(tmp_path), tmp_path / "spool"
    folder.mkdir()
    found = contents(archive, folder)
    assert problem in archives.listing(archive).problem and len(found) in readable
    assert f"{len(found)} files in it can be read" in archives.listing(archive).problem
    assert all(CONTENT[name] == data for name, data in found.items())


def test_a_byte_that_is_another_is_told_by_the_checksum_of_the_whole(tmp_path):
    data = bytearray(tar(tmp_path / "a.tar.gz", mode="w:gz").read_bytes())
    data[len(data) // 2] ^= 0xFF  # of what packing left as it was
    (tmp_path / "a.tar.gz").write_bytes(data)
    found = archives.listing(tmp_path / "a.tar.gz")
    said = "its checksum is wrong, so some file in it is damaged; 8 files in it can be read"
    assert (found.problem, len(found.members)) == (said, 8)


def test_what_is_no_archive_is_none_unless_it_is_called_one(tmp_path):
    (tmp_path / "thing.bin").write_bytes(random.Random(0).randbytes(2000))
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>")
    (tmp_path / "other.rar").write_bytes(b"Rar!\x1a\x07\0")
    (tmp_path / "x.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd\0")
    (tmp_path / "x.tar.aa").write_bytes(b"")
    assert len(archives.first_pieces(list(tmp_path.glob("x*")))) == 2  # zst is no end of a piece
    assert archives.listing(tmp_path / "x.tar.zst").problem.startswith("zstd cannot be read: unpack it")
    (tmp_path / "py.typed").write_bytes(b"")
    (tmp_path / "empty.tar").write_bytes(b"")
    assert archives.listing(tmp_path / "py.typed") is None
    assert "it is empty" in archives.listing(tmp_path / "empty.tar").problem
    assert archives.listing(tmp_path / "thing.bin") is None
    assert "can be read" in archives.listing(tmp_path / "page.tar.gz").problem
    assert "unpack it" in archives.listing(tmp_path / "other.rar").problem


def test_a_tree_finds_files_by_name_outside_of_archives_first(tmp_path):
    tar(
        tmp_path / "a.tar",
        {"deep/er/x.mp4": b"1", "deep/er/._x.mp4": b"2", "__MACOSX/y.mp4": b"3", "z.WAV": b""},
    )
    for name in ("b/c/x.webm", ".hidden/w.mp4", "b/._y.mp4", "done/v.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "done" / "dataset.json").write_text("{}")
    tree = Tree(tmp_path)
    assert tree.all(VIDEO, "x") == (f"{tmp_path}/b/c/x.webm", f"{tmp_path}/a.tar/deep/er/x.mp4")
    assert tree.find(SOUND, ["q", "z"]) == tmp_path / "a.tar/z.WAV"
    assert not [name for name in ("y", "._x", "w", "v") if tree.all(VIDEO, name)]
    assert tree.folder("er", within="deep") == tmp_path / "a.tar/deep/er"


# --- data sets in them --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> dict[str, bytes]:
    """Six clips of VGGSound by their usual names, two of one video."""
    folder = tmp_path_factory.mktemp("six")
    names = [
        f"{video}_{start:06d}"
        for video, start in (("a", 1), ("a", 30), ("b_7", 0), ("c", 5), ("d", 6), ("e", 7))
    ]
    return {
        name: clips.clip(folder / f"{name}.mp4", 4.0, seed=k).read_bytes() for k, name in enumerate(names)
    }


def vggsound(folder: Path, names) -> Path:
    (folder / "annotations").mkdir(parents=True)
    lines = [
        f"{name[:-7]},{int(name[-6:])},dog barking,{'train' if name[0] < 'd' else 'test'}" for name in names
    ]
    (folder / "annotations" / "vggsound.csv").write_text("\n".join(lines))
    return folder


def frames_and_sounds(out: Path) -> list[tuple]:
    dataset = PreparedDataset(out, "all")
    return [
        (dataset.record(i).id, dataset.frame(i, 0).tobytes(), dataset.waveform(i).tobytes())
        for i in range(len(dataset))
    ]


@pytest.fixture(scope="module")
def usual(six, tmp_path_factory) -> list[tuple]:
    source = vggsound(tmp_path_factory.mktemp("usual") / "vggsound", six)
    for name, data in six.items():
        end = f"{int(name[-6:]) + 10:06d}"
        path = source / "clips" / "dog_barking" / f"{name}_{end}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    report = prepare("vggsound", source, out=source.parent / "out")
    assert report.prepared == 6
    dataset = PreparedDataset(report.out, "all")
    assert [dataset.recording(i) for i in range(6)] == ["a", "a", "b_7", "c", "d", "e"]
    return frames_and_sounds(report.out)


@pytest.mark.parametrize(
    "name",
    [
        "clips/{id}_{start:06d}.mp4",
        "clips/{id}_{start}.mp4",
        "video/x/{id}_{start}_{end}.MKV",
        "deep/er/{id}_{ms}_{ms_end}.mp4",
        "{id}_{ms}.mp4",
        "Y{id}_{start:.3f}_{end:.3f}.webm",
    ],
)
def test_vggsound_as_others_name_it(name, six, usual, tmp_path):
    source = vggsound(tmp_path / "vggsound", six)
    for clip, data in six.items():
        start = int(clip[-6:])
        given = {"start": start, "end": start + 10, "ms": 1000 * start, "ms_end": 1000 * start + 10_000}
        path = source / name.format(id=clip[:-7], **given)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    report = prepare("vggsound", source, out=tmp_path / "out")
    assert (report.prepared, report.missing) == (6, 0) and frames_and_sounds(tmp_path / "out") == usual


def test_clips_in_archives_of_which_some_are_damaged(six, usual, tmp_path, capsys, monkeypatch):
    source = vggsound(tmp_path / "vggsound", six)
    inner = {f"scratch/far/video/{name[:-7]}_{int(name[-6:])}.mp4": data for name, data in six.items()}
    parts = [dict(list(inner.items())[k : k + 2]) for k in (0, 2, 4)]
    tar(source / "vggsound_00.tar.gz", parts[0], "w:gz")
    cut(tar(source / "vggsound_01.tar.gz", parts[1], "w:gz"), -3000)
    zipped(source / "more" / "vggsound_02.zip", parts[2])
    (source / "vggsound_03.tar.gz").write_bytes(b"\x1f\x8b\x08\0 nothing to be had")
    report = prepare("vggsound", source, out=tmp_path / "out", jobs=2)
    assert (report.prepared, report.missing, report.refused) == (5, 1, 0)
    assert frames_and_sounds(tmp_path / "out") == [one for one in usual if one[0] != "c_000005"]
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["reasons"][checks.MISSING] == ["c_000005"]
    first, second = found["notes"]["damaged archive"]
    assert first.startswith("vggsound_01.tar.gz: it breaks off") and first.endswith(
        "1 files in it can be read"
    )
    assert second.startswith("vggsound_03.tar.gz: ") and second.endswith("; 0 files in it can be read")
    assert "warning: damaged archive vggsound_01.tar.gz" in capsys.readouterr().err
    assert "vggsound_01.tar.gz" in (tmp_path / "out" / "report.html").read_text()
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out" / "shards").iterdir()}
    small = ["rows_per_shard=2"]
    alone = prepare("vggsound", source, out=tmp_path / "alone", settings=small).out
    for part in ("2/3", "1/3", "3/3"):
        prepare("vggsound", source, out=tmp_path / "parts", part=part, settings=small)
    for path in sorted((alone / "shards").iterdir()):
        assert (tmp_path / "parts" / "shards" / path.name).read_bytes() == path.read_bytes()
    assert len(whole) == 2 and not list(tmp_path.glob("*.unfinished"))


def test_a_damaged_clip_in_a_zip_is_refused_by_its_place(six, tmp_path):
    source = vggsound(tmp_path / "vggsound", six)
    path = zipped(source / "a.zip", {f"{name}.mp4": data for name, data in six.items()}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at = data.index(six["b_7_000000"]) + 500
    data[at] ^= 255
    path.write_bytes(data)
    report = prepare("vggsound", source, out=tmp_path / "out")
    assert (report.prepared, report.refused) == (5, 1)
    assert report.ids["damaged in its archive"] == ["b_7_000000"]
    assert report.details["b_7_000000"].startswith(f"{path}/b_7_000000.mp4: ")


def test_what_is_wrong_with_a_clip_names_its_place_in_the_archive(tmp_path):
    tar(tmp_path / "a.tar", {"in/x.mp4": b"not a clip\n" * 50})
    tar(tmp_path / "b.tar.gz", {"y.mp4": b"not a clip\n" * 50}, "w:gz")
    (tmp_path / "mine.csv").write_text(
        "id,split,label,video\n1,train,a,a.tar/in/x.mp4\n2,train,a,b.tar.gz/y.mp4\n3,train,a,a.tar/in/z.mp4\n"
    )
    report = prepare("manifest", tmp_path / "mine.csv", out=tmp_path / "out")
    assert (report.refused, report.missing) == (2, 1)
    way = "name the clip itself; a csv of clips goes through avtool prepare manifest"
    assert report.details == {
        "1": f"{tmp_path}/a.tar/in/x.mp4 is a text file, not a clip ({way})",
        "2": f"{tmp_path}/b.tar.gz/y.mp4 is a text file, not a clip ({way})",
        "3": f"looked for {tmp_path}/a.tar/in/z.mp4",
    }


def test_pictures_masks_and_sounds_lie_in_archives_of_their_own(tmp_path):
    picture = np.full((48, 64, 3), 90, np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 1
    jpg, png = (cv2.imencode(end, one)[1].tobytes() for end, one in ((".jpg", picture), (".png", mask)))
    clips.clip(tmp_path / "s.mp4", 4.0)
    sound = (tmp_path / "s.mp4").read_bytes()
    tar(tmp_path / "sounds.tar.xz", {f"{k}.m4a": sound for k in range(3)}, "w:xz")
    tar(tmp_path / "pictures.tar.gz", {f"{k}.jpg": jpg for k in (2, 0, 1)}, "w:gz")
    zipped(tmp_path / "masks.zip", {f"{k}.png": png for k in range(3)})
    lines = ["id,split,label,image,audio,mask"]
    lines += [
        f"{k},train,a,pictures.tar.gz/{k}.jpg,sounds.tar.xz/{k}.m4a,masks.zip/{k}.png" for k in range(3)
    ]
    lines.append("3,train,a,pictures.tar.gz/0.jpg,sounds.tar.xz/0.m4a,")  # files that another row has too
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    report = prepare("manifest", tmp_path / "mine.csv", out=tmp_path / "out", jobs=2)
    assert report.prepared == 4
    dataset = PreparedDataset(tmp_path / "out", "all")
    assert [dataset.record(i).id for i in range(4)] == ["0", "1", "2", "3"]
    assert np.array_equal(dataset.mask(1), mask)


def test_a_preparation_from_archives_goes_on_where_it_was_stopped(six, usual, tmp_path, monkeypatch):
    source = vggsound(tmp_path / "vggsound", six)
    tar(source / "a.tar.bz2", {f"{name}.mp4": data for name, data in six.items()}, "w:bz2")

    def run_all(stop, work, tasks):
        for done, task in enumerate(tasks):
            if done == stop:
                raise KeyboardInterrupt
            yield task, work(task)

    for stop in (2, 3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, "_engine", lambda *given, stop=stop: lambda *two: run_all(stop, *two))
            prepare("vggsound", source, out=tmp_path / "out")
        assert not list((tmp_path / "out.unfinished").glob(".spool*"))
    assert prepare("vggsound", source, out=tmp_path / "out").prepared == 6
    assert frames_and_sounds(tmp_path / "out") == usual


def test_other_machines_cannot_read_a_compressed_archive(tmp_path):
    archive = tar(tmp_path / "a.tar.gz", mode="w:gz")
    with pytest.raises(UsageError, match=r"a.tar.gz is compressed as a whole: only this machine"):
        list(Spool(tmp_path, shared=False).held([(0, [archive / next(iter(CONTENT))])]))


@clips.needs_test_data
def test_the_real_clips_as_their_authors_name_them_and_in_parts(tmp_path):
    real = clips.TEST_DATA / "vggsound_mini"
    there = prepare("vggsound", real, out=tmp_path / "usual").out
    files = sorted((real / "clips").rglob("*.mp4"))
    renamed, packed = tmp_path / "renamed", tmp_path / "packed"
    for folder in (renamed, packed):
        folder.mkdir()
        (folder / "annotations").symlink_to(real / "annotations")
    for file in files:
        link = renamed / "clips" / f"{file.stem[:-7]}.mp4"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(file)
    prepare("vggsound", renamed, out=tmp_path / "out")
    assert frames_and_sounds(tmp_path / "out") == frames_and_sounds(there)
    data = {f"video/{file.stem[:-7]}.mp4": file.read_bytes() for file in files}
    halves = dict(list(data.items())[:6]), dict(list(data.items())[6:])
    tar(packed / "vggsound_00.tar.gz", halves[0], "w:gz")
    cut(zipped(packed / "vggsound_01.zip", halves[1]), -2_000_000)
    report = prepare("vggsound", packed, out=tmp_path / "from-parts")
    assert 6 < report.prepared < 11 and report.missing == 52 - report.prepared
    assert "vggsound_01.zip: its directory is missing" in report.notes["damaged archive"][0]
    assert set(frames_and_sounds(tmp_path / "from-parts")) < set(frames_and_sounds(there))
