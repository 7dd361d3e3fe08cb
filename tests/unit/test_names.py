"""Labels, splits, columns and paths that are nearly right: refused by name, or mended and said in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avtool.cli import app
from avtool.data import names
from avtool.data.catalog import Request, Row, Source, classes_of, read_source
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.errors import TableError
from avtool.registry import DATASETS
from tests import clips

HEADER = "id,split,label,video\n"


def table(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("dog barking", "Dog  Barking"),
        ("dog barking", "dog_barking"),
        ("cattle, bovinae cowbell", "cattle__bovinae_cowbell"),
        ("people eating (noodle)", "people_eating__noodle_"),
        ("male-speech", "male speech"),
        ("caf\u00e9", "cafe\u0301"),
        ("dog", "\ufeffdog"),
        ("dog bark", "dog\u00a0bark"),
        ("stra\u00dfe", "STRASSE"),
        ("train", "Train"),
    ],
)
def test_names_that_look_the_same_are_alike(first, second):
    assert names.alike([first, second, "another"]) == [sorted([first, second])]
    assert names.matched([second], [first, "another"]) == {second: first}


@pytest.mark.parametrize(
    ("first", "second"), [("1", "-1"), ("C", "C++"), ("cat", "cats"), ("_", "-"), ("a b", "ab")]
)
def test_other_names_are_not(first, second):
    assert names.alike([first, second]) == [] and names.matched([first], [second]) == {}


def test_a_name_that_is_alike_to_two_is_matched_to_neither_but_to_itself():
    assert names.matched(["Dog", "dog", "DOG"], ["Dog", "dog"]) == {"Dog": "Dog", "dog": "dog"}


@pytest.mark.parametrize(
    ("split", "role"), [("Dev", "validation"), ("val", "validation"), ("Fold 1", "fold 1")]
)
def test_what_a_split_is_for(split, role):
    assert names.role(split) == role


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEADER + "a,Train,x,a.mp4\nb,train,x,b.mp4\n",
            r"splits that look the same: 'Train' \(clip a\) and 'train'",
        ),
        (HEADER + "a,train,x,a.mp4\nb,train_,x,b.mp4\n", r"'train' \(clip a\) and 'train_' \(clip b\)"),
        (
            HEADER + "a,train,dog barking,a.mp4\nb,train,cat;dog_barking,b.mp4\n",
            "labels that look .*dog_barking",
        ),
        (HEADER + "a,train,Dog,a.mp4\nb,train,dog,b.mp4\n", r"'Dog' \(clip a\) and 'dog' \(clip b\)"),
        (HEADER + "a,train,caf\u00e9,a.mp4\nb,train,cafe\u0301,b.mp4\n", r"cafe\\u0301.* and 'caf\\xe9'"),
        (",id,split,label,video\n0,a,train,x,a.mp4\n", "line 1: column 1 has no name"),
        ("id,split,label,video,\na,train,x,a.mp4,\n", "line 1: column 5 has no name"),
        (HEADER + "a,train,x,C:\\clips\\a.mp4\n", r"line 2: C:\\clips\\a.mp4 is a path of another computer"),
    ],
)
def test_what_cannot_be_mended_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(TableError, match=message) as caught:
        read_source("manifest", table(tmp_path, text), Request())
    assert caught.value.hint and "mine.csv" in caught.value.message


def test_many_labels_that_look_the_same_are_counted(tmp_path):
    rows = "".join(f"{k},train,label {k};Label {k},a.mp4\n" for k in range(9))
    with pytest.raises(TableError, match="; and 4 more"):
        read_source("manifest", table(tmp_path, HEADER + rows), Request())


def test_what_is_mended_is_said(tmp_path):
    folder = tmp_path / "mine"
    clips.clip(folder / "clips" / "a.mp4", 1.0)
    rows = ["a,train,cat;cat, clips\\a.mp4", "\ufeffb,dev,cat ; dog,./clips/a.mp4", "c,val, ;,clips/a.mp4"]
    path = table(folder, "\ufeff" + HEADER + "\n".join(rows))
    notes = {
        "backslashes in a path read as slashes": ["a"],
        "label given twice, counted once": ["a"],
        "no label": ["c"],
        "splits whose names mean the same, kept apart": ["dev", "val"],
    }
    report = prepare("manifest", path, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["notes"] == notes == report.notes
    assert "label given twice" in (tmp_path / "out" / "report.html").read_text()
    dataset = PreparedDataset(tmp_path / "out", "all")
    assert [dataset.record(k).labels for k in range(3)] == [("cat",), ("cat", "dog"), ()]
    assert [dataset.record(k).id for k in range(3)] == ["a", "b", "c"]
    assert {dataset.recording(k) for k in range(3)} == {"clips/a.mp4"}  # however the path is written
    shutil.rmtree(tmp_path / "out")
    said = CliRunner().invoke(app, ["prepare", "manifest", str(path), "--out", str(tmp_path / "out")])
    assert said.exit_code == 0 and all(f"{note}: {len(notes[note])}" in said.stdout for note in notes)


@pytest.mark.parametrize(
    "means",
    ['boxes\na,test,cello;cello,a.mp4,"[[0,0,0.4,1],[0.5,0,1,1]]"', "mask\na,test,cello;cello,a.mp4,a.png"],
)
def test_a_label_stays_twice_where_each_has_its_box_or_number_in_a_mask(tmp_path, means):
    text = f"id,split,label,video,{means}\n"
    source = read_source("manifest", table(tmp_path, text), Request())
    assert source.rows[0].labels == ("cello", "cello") and not source.notes


def test_the_home_folder_is_found_in_a_table_and_behind_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    clips.clip(tmp_path / "clips" / "a.mp4", 1.0)
    table(tmp_path, HEADER + "a,train,x,~/clips/a.mp4\nb,train,x,~gone.mp4\n")
    said = CliRunner().invoke(app, ["prepare", "manifest", "~/mine.csv", "--out=~/out"])
    assert said.exit_code == 0 and "no such file: looked for " + str(tmp_path / "~gone.mp4") in said.stdout
    assert len(PreparedDataset(tmp_path / "out")) == 1 and not (tmp_path / "~").exists()


def test_a_file_with_a_backslash_in_its_name_is_that_file(tmp_path):
    (tmp_path / "a\\b.mp4").touch()
    source = read_source("manifest", table(tmp_path, HEADER + "a,train,x,a\\b.mp4\n"), Request())
    assert source.rows[0].video == tmp_path / "a\\b.mp4" and not source.notes


def test_labels_are_spelled_as_a_data_set_s_own_list_spells_them(monkeypatch):
    rows = [
        Row("a", "train", ("Dog_barking",)),
        Row("b", "train", ("Dog_barking", "cat")),
        Row("c", "test", ("?",)),
    ]

    class Listed:
        subsets = ()

        @staticmethod
        def read(source: Path, request: Request) -> Source:
            return Source(rows, ["dog barking", "cat"])

    monkeypatch.setitem(DATASETS._loaded, "vggss", Listed)
    source = read_source("vggss", Path(), Request())
    assert [row.labels for row in source.rows] == [("dog barking",), ("dog barking", "cat"), ("?",)]
    assert source.notes == {"label spelled as the class list spells it": ["a", "b"]}
    assert classes_of(rows) == ["?", "Dog_barking", "cat"]  # what was read is not changed
