"""Version 2 of synth: every scenario's truth is true, clips follow from (seed, number), and evaluation by a column."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avtool import evaluate as evaluation
from avtool.checkpoint import load_model
from avtool.data import synth
from avtool.data.catalog import Request
from avtool.data.catalog.synth import read
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.data.synth.casts import SCENARIOS, SOUNDING, cast_of
from avtool.data.synth.objects import draw
from avtool.data.views import EvaluationViews
from avtool.errors import UsageError
from avtool.evaluate import Table, evaluate
from avtool.features import inputs_of
from avtool.tasks.context import Context
from avtool.tasks.localize.maps import localization_map
from avtool.tracking import keep_evaluation, kept_tables
from tests.models import UNTRAINED, described, untrained_models

FIRST_VERSION = {  # of seed 3: kind, voice, centre's x and side; pixels seen; frame 5's mean colour; samples
    0: (
        [("tap", 0, 0.284, 0.314), ("singer", 1, 0.3705, 0.3938), ("clock", 2, 0.7701, 0.3445)],
        [1032, 2939, 1936],
        [139.24, 146.08, 150.08],
        [[-169, -43, 56, 105], [-8, -8, -8, -8]],
    ),
    4: (
        [("guitar", 0, 0.7564, 0.3539), ("kettle", 0, 0.3677, 0.3602), ("singer", 1, 0.2479, 0.3546)],
        [1171, 2177, 2343],
        [149.41, 140.59, 134.99],
        [[-970, -954, -995, -956]],
    ),
}
EMPTY = "own sound, nothing in view makes it"


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[synth.Scene]]:
    """Some scenes of each scenario, by it."""
    every = [synth.describe(0, clip, 2) for clip in range(4, 60 * 5, 5)]
    return {name: [scene for scene in every if scene.scenario == name][:4] for name in SCENARIOS}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 prepared clips: of the 12 to test two are of each scenario."""
    out = tmp_path_factory.mktemp("prepared") / "scenes"
    prepare("synth", subset="scenes", out=out, clips=60)
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return untrained_models(tmp_path_factory.mktemp("models"))


# --- what is drawn


def test_clips_of_version_1_are_those_of_the_first_version() -> None:
    for clip, (things, seen, colour, samples) in FIRST_VERSION.items():
        scene = synth.describe(3, clip)
        found = [(t.kind, t.voice, round(t.centre[0], 4), round(t.side, 4)) for t in scene.things]
        stage = synth.Stage(scene)
        assert (found, scene.scenario, stage.frame(5).shape) == (things, "", (160, 160, 3))
        np.testing.assert_allclose(stage.masks().sum((1, 2)), seen, atol=12)
        np.testing.assert_allclose(stage.frame(5).mean((0, 1)), colour, atol=0.3)
        np.testing.assert_allclose(synth.stems_of(scene)[:, 20000:20004], samples, atol=1)


def test_a_cast_follows_from_seed_and_number_and_scenarios_take_turns() -> None:
    few, many = (read(Path(), Request(clips=clips, seed=5, subset="scenes")).rows for clips in (60, 600))
    assert many[:60] == few
    of = Counter((row.split, row.extra["scenario"]) for row in many)
    assert of == {("train", name): 120 for name in SOUNDING} | {("test", name): 20 for name in SCENARIOS}
    assert [row.labels for row in few] != [cast_of(6, clip, 2).labels for clip in range(60)]
    for clip, row in enumerate(few):
        scene = synth.describe(5, clip, 2)
        assert (row.split, row.labels, row.extra["scenario"]) == (scene.split, scene.labels, scene.scenario)


def test_each_scenario_holds_what_its_name_says(scenes: dict[str, list[synth.Scene]]) -> None:
    heard = {"two sources": (2, 2), "same class": (2, 1), "off-screen": (1, 2)}  # things that sound, labels
    heard |= {"one source": (1, 1), "silence": (0, 0), "not in view": (0, 1)}
    for name, few in scenes.items():
        assert len(few) == 4
        for scene in few:
            in_view = Counter(thing.kind for thing in scene.things)
            assert 2 <= len(scene.things) <= 4 and len(scene.sounding) < len(scene.things), name
            assert (len(scene.sounding), len(scene.labels)) == heard[name]
            unseen = [kind for kind in scene.labels if kind not in in_view]
            assert len(unseen) == (name in ("off-screen", "not in view"))
            assert set(in_view.values()) == ({2} if name == "same class" else {1})


def test_masks_and_boxes_are_of_all_that_may_sound_and_the_stems_add_up(
    scenes: dict[str, list[synth.Scene]],
) -> None:
    for scene in (scene for few in scenes.values() for scene in few):
        stage = synth.Stage(scene)
        labels, view, boxes = stage.truth()
        assert stage.frame(synth.MIDDLE).shape == (*labels.shape, 3) == (256, 256, 3)
        expected = np.zeros_like(labels)
        for thing, mask in zip(scene.things, stage.masks(), strict=True):
            expected[mask] = scene.labels.index(thing.kind) + 1 if thing.voice else 0
        np.testing.assert_array_equal(labels, expected)
        assert boxes == [
            thing["box"]
            for kind in scene.labels
            for thing in view
            if thing["kind"] == kind and thing["sounding"]
        ]
        assert len(boxes) == sum(thing["sounding"] for thing in view)
        stems = synth.stems_of(scene)
        assert stems.shape == (len(scene.labels), synth.SECONDS * synth.SAMPLE_RATE)
        np.testing.assert_array_equal(synth.mixture(stems), stems.astype(int).sum(0))
        assert bool(synth.mixture(stems).any()) == (scene.scenario != "silence")


def test_two_of_a_kind_look_different(scenes: dict[str, list[synth.Scene]]) -> None:
    for scene in scenes["same class"]:
        first, second = [sprite for sprite in synth.Stage(scene)._sprites if sprite.thing.voice]
        means = [sprite.image[..., :3][sprite.cover > 127].mean(0) for sprite in (first, second)]
        assert np.abs(means[0] - means[1]).max() > 5


def test_no_drawing_is_enlarged(
    scenes: dict[str, list[synth.Scene]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sprite, kept at twice the size at which it is shown, has no more pixels than the drawing."""
    sides = list[int]()

    def drawn(*how: Any) -> np.ndarray:
        drawing = draw(*how)
        sides.append(max(drawing.shape[:2]))
        return drawing

    monkeypatch.setattr(synth, "draw", drawn)
    every = [scene for few in scenes.values() for scene in few]
    for scene in every:
        synth.Stage(scene)
    wanted = [thing.side * synth._SPRITE * synth.LARGE for scene in every for thing in scene.things]
    assert len(sides) == len(wanted) and (np.array(sides) >= wanted).all()


def test_clips_are_rendered_as_files_with_their_scenario(tmp_path: Path) -> None:
    with synth.render(tmp_path, clips=2, seed=0, version=2).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["scenario"] for row in rows] == [cast_of(0, clip, 2).scenario for clip in range(2)]
    assert (tmp_path / rows[1]["video"]).is_file()


# --- what is prepared


def test_prepared_clips_keep_scenario_and_truth(data: Path) -> None:
    dataset = PreparedDataset(data, "all")
    assert dataset.name == "synth-scenes" and len(dataset) == 60
    for i in range(60):
        record, facts, scene = dataset.record(i), dataset.facts(i), synth.describe(0, i, 2)
        assert facts["extra"] == {"scenario": scene.scenario} and facts["size"] == [256, 256]
        assert record.labels == record.stems == scene.labels
        labels, view, boxes = synth.Stage(scene).truth() if i % 5 == 4 else (None, None, None)
        if labels is not None:
            np.testing.assert_array_equal(dataset.mask(i), labels)
            np.testing.assert_allclose(record.boxes, np.reshape(boxes, (-1, 4)), atol=1e-6)
            assert facts["view"] == view
        stems = [dataset.stem(i, name).astype(int) for name in record.stems]
        np.testing.assert_array_equal(dataset.waveform(i), sum(stems, np.zeros(record.samples, int)))
    report = json.loads((data / "report.json").read_text(encoding="utf-8"))
    silent = [dataset.record(i).id for i in range(60) if not dataset.record(i).labels]
    assert len(silent) == 2 and report["reasons"]["quiet"] == silent


# --- evaluation by a column


def by_group(tables: list[Table], protocol: str) -> dict[str, Table]:
    return {"".join(table.group.values()): table for table in tables if table.protocol == protocol}


def value(table: Table, row: str, measure: str) -> float:
    return next(found.measures[measure].value for found in table.rows if found.name == row)


def test_localization_has_a_table_for_each_scenario_and_says_what_it_cannot_judge(
    data: Path, model: Callable[[str], Path], tmp_path: Path
) -> None:
    tables = evaluate(
        model("localize"), data, by="scenario", protocols=["pointing", "negative-audio"], device="cpu"
    )
    pointing, negative = (by_group(tables, name) for name in ("pointing", "negative-audio"))
    assert set(pointing) == set(negative) == {"", *SCENARIOS}
    for name in SCENARIOS:
        judged = name in SOUNDING
        assert pointing[name].group == {"scenario": name} and pointing[name].samples == (2 if judged else 0)
        assert sum(pointing[name].left_out.values()) == (0 if judged else 2)
        assert bool(pointing[name].rows) == judged
        assert negative[name].samples == 2
    assert "no clip of split test has boxes" in next(iter(pointing["silence"].left_out))
    means = [value(pointing[name], "trained", "pointing") for name in SOUNDING]
    assert value(pointing[""], "trained", "pointing") == pytest.approx(np.mean(means))
    floors = [value(pointing[name], "an object at random", "pointing") for name in SOUNDING]
    assert value(pointing[""], "an object at random", "pointing") == pytest.approx(np.mean(floors))
    # what nothing in view makes: the share that is marked all the same, under one threshold
    row, empty = f"trained, {EMPTY}", ("silence", "not in view")
    shares = [value(negative[name], row, "marked") for name in empty]
    assert value(negative[""], row, "marked") == pytest.approx(np.mean(shares))
    assert 0 <= value(negative[""], row, "AUC") <= 100 and negative[""].samples == 12
    for name in SCENARIOS:
        names = [found.name for found in negative[name].rows]
        assert (row in names) == (name in empty) and ("trained, own sound" in names) == (name in SOUNDING)
    assert all("AUC" not in found.measures for found in negative["silence"].rows)
    assert value(negative["silence"], "the truth itself, any other sound", "marked") == 0
    # a card and a page show the tables of the groups that can be judged
    written = [table.as_dict() for table in tables]
    keep_evaluation(tmp_path, {"weights": "a", "data": {"checksum": "b"}, "tables": written})
    assert len(kept_tables(tmp_path, "a")) == len([table for table in tables if table.rows]) == 12


def test_what_nothing_in_view_makes_is_judged_with_its_own_sound(
    data: Path, model: Callable[[str], Path], tmp_path: Path
) -> None:
    how = {"protocols": ["negative-audio"], "device": "cpu", "save_predictions": tmp_path / "p.npz"}
    (table,) = evaluate(model("localize"), data, **how)
    saved, dataset = np.load(tmp_path / "p.npz"), PreparedDataset(data, "test")
    clips = saved["negative-audio empty clips"].tolist()
    assert {dataset.facts(i)["extra"]["scenario"] for i in clips} == {"silence", "not in view"}
    assert len(clips) == 4 and not set(clips) & set(saved["negative-audio clips"].tolist())
    module, log_mel, _ = load_model(model("localize"))
    views = EvaluationViews(dataset, image_size=(32, 32), window_samples=16000, whole=True)
    for place, clip in enumerate(clips):
        view = views.sample(clip)
        image, audio = inputs_of(
            log_mel, {name: torch.tensor(view[name])[None] for name in ("image", "waveform")}
        )
        top = localization_map(module, image, audio, kind="trained").max().item()
        assert saved[f"maximum: trained, {EMPTY}"][place] == pytest.approx(top, abs=1e-5)
    marked = saved[f"marked: trained, {EMPTY}"]
    assert value(table, f"trained, {EMPTY}", "marked") == pytest.approx(100 * marked.mean())


def test_masks_that_hold_nothing_are_judged_in_their_scenarios(
    data: Path, model: Callable[[str], Path]
) -> None:
    names = ["avs-tpavi", "avs-published"]
    tables = evaluate(model("segment"), data, by="scenario", protocols=names, device="cpu")
    tpavi, published = (by_group(tables, name) for name in names)
    means = [value(tpavi[name], "model", "mIoU") for name in SCENARIOS]
    assert value(tpavi[""], "model", "mIoU") == pytest.approx(np.mean(means))
    assert value(tpavi["silence"], "an empty mask", "mIoU") == 100
    assert np.isnan(value(published["silence"], "model", "mIoU"))
    (table,) = evaluate(model("segment"), data, protocols=["negative-audio"], device="cpu")
    assert table.samples == 12 and {"marked", "AUC"} == next(
        set(row.measures) for row in table.rows if row.name == f"model, {EMPTY}"
    )


@pytest.mark.parametrize(
    ("task", "judged"),
    [("separate", ("one source", "same class", "not in view")), ("classify", ("one source", "same class"))],
)
def test_clips_that_a_task_cannot_judge_are_left_out_by_name(
    data: Path, model: Callable[[str], Path], task: str, judged: tuple[str, ...]
) -> None:
    tables = evaluate(model(task), data, by="scenario", device="cpu")
    of = [table for table in tables if table.group]
    found = {table.group["scenario"] for table in of if table.rows}
    assert set(judged) <= found and not found & {"silence", "two sources", "off-screen"}
    assert all(sum(table.left_out.values()) == 2 for table in of if not table.rows)


def test_any_label_or_column_groups_and_another_is_named(
    data: Path, model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = evaluate(model("localize"), data, by="label", protocols=["pointing"], device="cpu")
    dataset = PreparedDataset(data, "test")
    labels = {";".join(dataset.record(i).labels) or "none" for i in range(len(dataset))}
    assert {table.group["label"] for table in tables if table.group} == labels
    with pytest.raises(UsageError, match="no column 'senario'") as error:
        evaluate(model("localize"), data, by="senario", device="cpu")
    assert "label, scenario" in error.value.hint
    monkeypatch.setattr(evaluation, "MOST_GROUPS", 5)
    with pytest.raises(UsageError, match="has 6 values"):
        evaluate(model("localize"), data, by="scenario", device="cpu")


def test_what_is_judged_in_another_group_is_not_learned_from(data: Path) -> None:
    dataset = PreparedDataset(data, "all")
    kind, settings = UNTRAINED["localize"]
    context = Context(
        Path(), described(kind, settings), dataset, np.arange(3), torch.device("cpu"), judged=np.arange(10)
    )
    _, rest = context.unjudged("train", purpose="to be neighbours")
    np.testing.assert_array_equal(rest, np.arange(10, 60))
