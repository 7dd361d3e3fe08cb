"""Protocol ``vggsounder``, held to the package of that name; where its labels come from; evaluate and score alike."""

from __future__ import annotations

import csv
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import soundfile

from avtool.checkpoint import save_checkpoint
from avtool.data.prepare import prepare
from avtool.errors import DataError, TableError, UsageError
from avtool.evaluate import Table, evaluate
from avtool.metrics.classification import top_is_true
from avtool.model.build import random_model
from avtool.score import score
from avtool.tasks.names import ClassNames
from tests import clips
from tests.models import ENCODER, described

CLASSES = (
    "dog barking", "playing drum kit", "male speech, man speaking", "train horning", "sea waves", "cat meowing"
)  # fmt: skip
HEADER = ("video_id", "label", "modality", "background_music", "static_image", "voice_over")
SOUND, PICTURE = "fused, image blank", "fused, sound silent"


def invented() -> tuple[list[tuple], np.ndarray]:
    """Labels of 20 clips, and scores (3, 20, 6) with both inputs, the sound and the picture alone. The package was run
    on the same."""
    rng, rows = np.random.default_rng(3), list[tuple]()
    for n in range(20):
        meta = [bool(value) for value in rng.random(3) < 0.4]
        for number in sorted(rng.choice(6, 1 + n % 3, replace=False).tolist()):
            modality = ("A", "V", "AV", "AV")[rng.integers(4)]
            rows.append((f"clip-{n}_000030", CLASSES[number], modality, *meta))
    scores = rng.normal(size=(3, 20, 6))
    for name, label, modality, *_ in rows:
        at = int(name[5:-7]), CLASSES.index(label)
        scores[(0, *at)] += 1
        scores[(1, *at)] += "A" in modality
        scores[(2, *at)] += "V" in modality
    return rows, scores


ROWS, SCORES = invented()


def write_csv(path: Path, rows: Sequence[Sequence]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def prepared(folder: Path, names: Sequence[str], classes: Sequence[str]) -> Path:
    """A clip for each of ``names``, and one that VGGSounder does not label."""
    cv2.imwrite(str(folder / "i.png"), np.full((32, 32, 3), 90, np.uint8))
    soundfile.write(folder / "s.wav", clips.tone(1.5), clips.RATE)
    every = enumerate([*names, "other_000001"])
    lines = [(name, "test", classes[k % len(classes)], "i.png", "s.wav", k) for k, name in every]
    table = write_csv(folder / "t.csv", [("id", "split", "label", "image", "audio", "recording"), *lines])
    return prepare("manifest", table, out=folder / "prepared").out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("data"), [f"clip-{n}_000030" for n in range(20)], CLASSES)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "labels.csv", [HEADER, *ROWS])


def write_scores(path: Path, ids: Sequence[str], scores: np.ndarray, classes: Sequence[str]) -> Path:
    both, sound, picture = scores
    alone = {"scores_sound": sound, "scores_picture": picture}
    np.savez(path, ids=ids, scores=both, classes=classes, **alone)
    return path


def by_name(tables: Sequence[Table]) -> dict[str, Table]:
    return {
        f"{table.protocol.removeprefix('vggsounder, ')} {table.group.get('meta label', '')}".strip(): table
        for table in tables
    }


def value(table: Table, row: str, measure: str) -> float:
    return next(one for one in table.rows if one.name == row).measures[measure].value / 100


EXPECTED = {
    ("both", "own.npz"): (0.375, 0.3076923076923077),
    ("sound", SOUND): (0.47368421052631576, 0.34615384615384615),
    ("picture", PICTURE): (0.3684210526315789, 0.2916666666666667),
    ("sound only", SOUND): (0.4444444444444444, 0.42105263157894735),
    ("picture only", PICTURE): (0.4, 0.36363636363636365),
    ("both background music", "own.npz"): (0.5, 0.4),
}
"""hit_rate@1 and f1@1 of vggsounder 1.0, its benchmark.compute_all_results, on the same labels and logits: av, a, v, a
only, v only, and av with background_music=True."""
CONFUSED = {"own.npz, both of these": 0.05, f"own.npz, {SOUND}": 0.2, f"own.npz, {PICTURE}": 0.1}
"""Its mu of av, a and v."""


def test_scores_get_what_the_package_gives_them(data: Path, labels: Path, tmp_path: Path) -> None:
    ids = [f"clip-{n}_000030" for n in range(20)]
    given = write_scores(tmp_path / "own.npz", ids, SCORES, CLASSES)
    tables = by_name(score([given], data, protocols=["vggsounder"], vggsounder=labels))
    for (name, row), expected in EXPECTED.items():
        found = value(tables[name], row, "hit"), value(tables[name], row, "F1")
        assert found == pytest.approx(expected, rel=1e-12), name
    for row, expected in CONFUSED.items():
        assert value(tables["confusion"], row, "confused") == pytest.approx(expected)


def test_what_is_counted_is_said_beside_floor_and_ceiling(data: Path, labels: Path, tmp_path: Path) -> None:
    given = write_scores(tmp_path / "own.npz", [f"clip-{n}_000030" for n in range(20)], SCORES, CLASSES)
    tables = by_name(score([given], data, protocols=["vggsounder"], vggsounder=labels))
    modality = {name: {row[2] for row in ROWS if row[0] == name} for name, *_ in ROWS}
    heard, seen = (sum(kinds == {kind} for kinds in modality.values()) for kind in "AV")
    sound = tables["sound"]
    note = f"Of 20 clips {heard} have labels that are audible alone and {seen} visible alone"
    assert heard and seen and sound.notes[0].startswith(note)
    audible = [name for name, kinds in modality.items() if kinds & {"A", "AV"}]
    assert sound.samples == len(audible) < 20
    assert sound.left_out == {
        "without a label of VGGSounder": 1,
        "without a label of this set: sound": 20 - len(audible),
    }
    assert [row.role for row in sound.rows] == ["model", "control", "control", "floor", "ceiling"]
    count = sum("A" in row[2] for row in ROWS)
    assert value(sound, "always one right class", "F1") == pytest.approx(
        2 * len(audible) / (len(audible) + count)
    )
    assert 0 < value(sound, "always the commonest class", "hit") < 1
    music = tables["sound background music"].samples
    assert 0 < music == len({row[0] for row in ROWS if row[3]} & set(audible)) < len(audible)


def test_scores_of_both_inputs_alone_have_no_confusion(data: Path, labels: Path, tmp_path: Path) -> None:
    write_csv(
        tmp_path / "own.csv",
        [["id", *CLASSES], *([f"clip-{n}_000030", *line] for n, line in enumerate(SCORES[0].tolist()))],
    )
    tables = by_name(score([tmp_path / "own.csv"], data, protocols=["vggsounder"], vggsounder=labels))
    assert "confusion" not in tables and value(tables["both"], "own.csv", "hit") == 0.375


def test_a_model_gets_what_its_saved_predictions_get(data: Path, labels: Path, tmp_path: Path) -> None:
    settings = {**ENCODER, "dim": 24, "classes": 6}
    save_checkpoint(
        tmp_path / "model",
        model=random_model("classifier", settings, seed=3),
        config=described("classifier", settings, {"n_fft": 400}),
        beside=ClassNames(CLASSES).write,
    )
    file = tmp_path / "p.npz"
    judged = evaluate(
        tmp_path / "model",
        data,
        protocols=["vggsounder"],
        vggsounder=labels,
        device="cpu",
        save_predictions=file,
    )
    scored = score([file], data, protocols=["vggsounder"], vggsounder=labels)
    assert len(judged) == len(scored) == 5 + 1 + 3 * 4
    for one, other in zip(judged, scored, strict=True):
        rows = {row.name: row.measures for row in one.rows}
        assert one.samples == other.samples and one.left_out == other.left_out
        for row in other.rows:
            name = row.name.removeprefix("p.npz, ")
            assert row.measures == rows["fused" if name == "p.npz" else name]


def test_the_class_that_scores_highest_is_a_label_by_share_where_several_do() -> None:
    scores = np.array([[1.0, 3, 2], [2, 2, 1], [5, 5, 5]])
    targets = np.array([[False, True, False], [True, False, True], [False, False, True]])
    np.testing.assert_allclose(top_is_true(scores, targets), [1, 1 / 2, 1 / 3])


def test_where_labels_come_from_is_said_and_what_is_wrong_with_them(
    data: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = write_scores(tmp_path / "own.npz", [f"clip-{n}_000030" for n in range(20)], SCORES, CLASSES)
    monkeypatch.setitem(sys.modules, "vggsounder", None)
    monkeypatch.setattr("avtool.tasks.classify.vggsounder.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="vggsounder, which is not installed") as error:
        score([given], data, protocols=["vggsounder"])
    assert "pip install vggsounder" in error.value.hint and "--vggsounder CSV" in error.value.hint
    with pytest.raises(UsageError, match="--vggsounder changes nothing in top1"):
        score([given], data, protocols=["top1"], vggsounder=labels)
    write_csv(labels, [HEADER, ("clip-0_000030", "dog barking", "B", False, False, False)])
    with pytest.raises(TableError, match="modality is B"):
        score([given], data, protocols=["vggsounder"], vggsounder=labels)
    write_csv(labels, [HEADER, ("another_000030", "dog barking", "A", False, False, False)])
    with pytest.raises(DataError, match="labels none of the clips by a class that is known"):
        score([given], data, protocols=["vggsounder"], vggsounder=labels)


@pytest.mark.proof
def test_the_installed_package_gives_the_same_on_its_own_labels(tmp_path: Path) -> None:
    """On 100 of its clips and its classes, with random scores."""
    package: ModuleType = pytest.importorskip("vggsounder")
    benchmark = pytest.importorskip("vggsounder.benchmark")
    labels = package.VGGSounder(background_music=None)
    classes, rng = labels.get_all_labels(), np.random.default_rng(0)
    ids = [name for k, name in enumerate(labels.keys()) if k % 150 == 0]
    scores = rng.normal(size=(3, len(ids), len(classes)))
    for row, name in enumerate(ids):
        for label in labels[name].labels:
            scores[:, row, classes.index(label)] += rng.random(3) * 4
    own = {
        name: {"logits": dict(zip(("av", "a", "v"), scores[:, row].tolist(), strict=True))}
        for row, name in enumerate(ids)
    }
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(own))
    theirs = benchmark.compute_all_results(str(tmp_path), subset_ids=ids, vggsounder=labels, verbose=False)[
        "m"
    ]
    data = prepared(tmp_path, ids, classes[:2])
    given = write_scores(tmp_path / "own.npz", ids, scores, classes)
    tables = by_name(score([given], data, protocols=["vggsounder"]))
    pairs = {"av": ("both", "own.npz"), "a": ("sound", SOUND), "v": ("picture", PICTURE)}
    pairs |= {"a only": ("sound only", SOUND), "v only": ("picture only", PICTURE)}
    for modality, (name, row) in pairs.items():
        found = value(tables[name], row, "hit"), value(tables[name], row, "F1")
        assert found == pytest.approx((theirs[modality]["hit_rate@1"], theirs[modality]["f1@1"]), rel=1e-12)
    for modality, row in (("av", "both of these"), ("a", SOUND), ("v", PICTURE)):
        assert value(tables["confusion"], f"own.npz, {row}", "confused") == pytest.approx(
            theirs[modality]["mu"]
        )
    assert theirs["a"]["mu"] != theirs["v"]["mu"]
