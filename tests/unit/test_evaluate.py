"""Evaluation of classifiers and of retrieval: rows, windows, what changes nothing, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from avtool import engine
from avtool.checkpoint import load_model, save_checkpoint
from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.views import WindowViews
from avtool.errors import CheckpointError, DataError, UsageError
from avtool.evaluate import Table, evaluate
from avtool.features import blank_frames, inputs_of, silence
from avtool.metrics.classification import average_precision, roc_auc
from avtool.metrics.embeddings import nearest_neighbour_hits, recall
from avtool.model.build import build_model
from avtool.places import BEST
from avtool.tasks.names import ClassNames
from avtool.tasks.pretrain.train import mean_tokens
from avtool.tasks.retrieve.protocols import _pairs
from tests.models import described
from tests.unit.test_classify import LABELS, SMALL, write_data
from tests.unit.test_embed import SETTINGS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training clips of three classes; twelve test clips of one label, one of two labels and one of none."""
    rows = [(f"{label}{k}", "train", label) for label in LABELS for k in range(4)]
    rows += [(f"test-{label}{k}", "test", label) for label in LABELS for k in range(4)]
    rows += [("test-both", "test", "a;c"), ("test-none", "test", "")]
    return write_data(tmp_path_factory.mktemp("evaluate"), rows)


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was trained for a moment."""
    recipe = load_recipe("tiny-classify", [*SMALL, "max_steps=12", "optim.base_lr=0.2", "train.batch_size=3"])
    out = tmp_path_factory.mktemp("model") / "run"
    return engine.train(recipe, data=data, out=out, device="cpu", allow_random=True)


def judge(model: Path, data: Path, **options) -> list[Table]:
    return evaluate(model, data, device="cpu", **options)


def values(table: Table) -> dict[tuple[str, str], float]:
    return {(row.name, name): measure.value for row in table.rows for name, measure in row.measures.items()}


def logits_by_hand(
    model: Path, data: Path, windows: int = 1, blank: str = ""
) -> tuple[np.ndarray, PreparedDataset]:
    """The fused logits of the test clips, clip by clip and window by window."""
    classifier, log_mel, _ = load_model(model / BEST)
    dataset = PreparedDataset(data, "test")
    views = WindowViews(dataset, image_size=(32, 32), window_samples=16000, windows=windows)
    found = []
    for index in range(len(dataset)):
        logits = []
        for number in range(index * windows, (index + 1) * windows):
            sample = views.sample(number)
            batch = {name: torch.tensor(sample[name])[None] for name in ("image", "waveform")}
            image, audio = inputs_of(log_mel, batch)
            image = blank_frames(image) if blank == "image" else image
            audio = silence(audio) if blank == "audio" else audio
            with torch.no_grad():
                logits.append(classifier(image, audio).mean[0].numpy())
        found.append(np.mean(logits, axis=0))
    return np.stack(found), dataset


def single(dataset: PreparedDataset) -> np.ndarray:
    return np.array([i for i in range(len(dataset)) if len(dataset.record(i).label_ids) == 1])


ROWS = {"fused": "", "fused, image blank": "image", "fused, sound silent": "audio"}


def test_rows_are_what_the_model_says_with_and_without_either_input(
    model: Path, data: Path, tmp_path: Path
) -> None:
    (table,) = judge(model, data, save_predictions=tmp_path / "p.npz")
    saved = np.load(tmp_path / "p.npz")
    assert (table.protocol, table.samples, table.recordings) == ("top1, top5", 12, 12)
    assert table.left_out == {"without a label": 1, "with several labels": 1}
    found = values(table)
    accuracies = set()
    for name, blank in ROWS.items():
        logits, dataset = logits_by_hand(model, data, blank=blank)
        chosen = single(dataset)
        np.testing.assert_allclose(saved[f"logits_{name}"], logits[chosen], atol=1e-5)
        own = saved[f"logits_{name}"].argmax(axis=1) == saved["targets"].argmax(axis=1)
        assert found[name, "top1"] == pytest.approx(100 * own.mean())  # the file suffices
        hits = logits[chosen].argmax(axis=1) == [dataset.label_id(int(i)) for i in chosen]
        assert found[name, "top1"] == pytest.approx(100 * hits.mean())
        assert found[name, "top5"] == 100
        accuracies.add(round(found[name, "top1"], 3))
    assert len(accuracies) > 1  # blanking does something
    assert saved["classes"].tolist() == list(LABELS) and saved["ids"][0] == "test-a0"
    assert found["always the commonest class", "top1"] == pytest.approx(100 / 3)
    roles = {row.name: row.role for row in table.rows}
    assert [name for name, role in roles.items() if role == "model"] == [
        "fused",
        "image head",
        "audio head",
        "fusion head",
    ]
    assert {roles["fused, image blank"], roles["fused, sound silent"]} == {"control"}
    assert roles["always the commonest class"] == "floor"


def test_ten_windows_are_the_mean_of_their_logits(model: Path, data: Path, tmp_path: Path) -> None:
    (table,) = judge(model, data, windows=10, protocols=["top1"], save_predictions=tmp_path / "p.npz")
    assert "10 windows a clip, logits averaged" in table.words
    saved = np.load(tmp_path / "p.npz")
    logits, dataset = logits_by_hand(model, data, windows=10)
    assert saved["clips"].tolist() == single(dataset).tolist()
    np.testing.assert_allclose(saved["logits_fused"], logits[single(dataset)], atol=1e-5)
    one, _ = logits_by_hand(model, data)
    assert abs(one - logits).max() > 1e-3


def test_clips_of_several_labels_have_map_and_auc(model: Path, data: Path) -> None:
    (table,) = judge(model, data, protocols=["mAP", "AUC"])
    assert table.samples == 13 and table.left_out == {"without a label": 1}
    logits, dataset = logits_by_hand(model, data)
    labels = [dataset.record(i).label_ids for i in range(len(dataset))]
    kept = [i for i, of_clip in enumerate(labels) if of_clip]
    targets = np.array([[k in labels[i] for k in range(3)] for i in kept])
    found = values(table)
    assert found["fused", "mAP"] == pytest.approx(100 * average_precision(logits[kept], targets).mean())
    assert found["fused", "AUC"] == pytest.approx(100 * roc_auc(logits[kept], targets).mean())
    assert found["always the commonest class", "mAP"] == pytest.approx(100 * targets.mean())
    assert found["always the commonest class", "AUC"] == 50


def test_a_table_says_of_what_part_of_the_data_it_is(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    (table,) = judge(model, data, protocols=["top1"], split="train", fold=(1, 2), out=out)
    assert table.data == "table, split train, fold 1/2" and table.samples == 6
    written = json.loads(out.read_text())
    assert written["data"]["fold"] == [1, 2] and written["tables"][0]["data"] == table.data


def test_a_protocols_samples_are_its_own_whatever_is_asked_for_beside_it(model: Path, data: Path) -> None:
    alone = [*judge(model, data, protocols=["top1"]), *judge(model, data, protocols=["mAP"])]
    beside = judge(model, data, protocols=["mAP", "top1"])
    assert [table.samples for table in beside] == [12, 13]
    assert [table.as_dict() for table in beside] == [table.as_dict() for table in alone]


def test_a_classifier_of_several_labels_is_judged_by_protocols_of_several(
    model: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(model / BEST, tmp_path / "several")
    ClassNames(LABELS, several=True).write(tmp_path / "several")
    assert [table.protocol for table in judge(tmp_path / "several", data)] == ["mAP, AUC"]


@pytest.mark.parametrize("task", ["classify", "retrieve"])
def test_nothing_depends_on_the_batch_size_or_the_workers(model: Path, data: Path, task: str) -> None:
    protocols = ["top1", "mAP", "knn"] if task == "classify" else []
    options = {"task": task, "protocols": protocols, "windows": 2}
    whole = [table.as_dict() for table in judge(model, data, batch_size=64, **options)]
    for batch_size, workers in ((1, 0), (3, 2)):
        again = judge(model, data, batch_size=batch_size, workers=workers, **options)
        assert [table.as_dict() for table in again] == whole


def test_knn_is_by_the_mean_token_of_each_stream(model: Path, data: Path, tmp_path: Path) -> None:
    (table,) = judge(model, data, protocols=["knn"], save_predictions=tmp_path / "p.npz")
    saved = np.load(tmp_path / "p.npz")
    classifier, log_mel, _ = load_model(model / BEST)
    means, labels = {}, {}
    for split in ("train", "test"):
        dataset = PreparedDataset(data, split)
        chosen = [i for i in range(len(dataset)) if dataset.label_id(i) >= 0]
        views = WindowViews(dataset, image_size=(32, 32), window_samples=16000, windows=1)
        batch = {
            name: torch.stack([torch.tensor(views.sample(i)[name]) for i in chosen])
            for name in ("image", "waveform")
        }
        with torch.no_grad():
            means[split] = mean_tokens(classifier.encoder(*inputs_of(log_mel, batch)))
        labels[split] = torch.tensor([dataset.label_id(i) for i in chosen])
    found = values(table)
    for stream in ("image", "audio", "fusion", "all"):
        hits = nearest_neighbour_hits(
            means["test"][stream], labels["test"], means["train"][stream], labels["train"]
        )
        assert found[stream, "knn"] == pytest.approx(100 * hits.float().mean().item())
        assert saved[f"knn_{stream}"].tolist() == hits.tolist()
    assert len(saved["knn_clips"]) == len(saved["knn_untrained weights, all"]) == table.samples
    assert ("untrained weights, all", "knn") in found and "12 training clips" in table.words


def test_retrieval_cannot_read_one_modality_from_the_other(model: Path) -> None:
    classifier, *_ = load_model(model / BEST)
    torch.manual_seed(0)
    image, audio = torch.randn(4, 3, 32, 32), torch.randn(4, 1, 32, 64)
    with torch.no_grad():
        pairs = _pairs(classifier, image, audio)
        others = _pairs(classifier, image, audio.flip(0)), _pairs(classifier, image.flip(0), audio)
    for name, (picture, sound) in pairs.items():
        torch.testing.assert_close(others[0][name][0], picture)
        torch.testing.assert_close(others[1][name][1], sound)
        assert not torch.allclose(others[0][name][1], sound)
        assert not torch.allclose(others[1][name][0], picture)


def test_retrieval_stands_beside_its_control_and_its_floor(model: Path, data: Path, tmp_path: Path) -> None:
    (table,) = judge(model, data, task="retrieve", save_predictions=tmp_path / "p.npz")
    assert (table.protocol, table.samples) == ("recall@1,5,10", 14)
    assert "pictures are encoded with silence" in table.words
    found, saved = values(table), np.load(tmp_path / "p.npz")
    for k in (1, 5, 10):
        assert found["drawn by lot", f"recall@{k}"] == pytest.approx(100 * k / 14)
        for name in ("own tokens", "fusion tokens"):
            of = name.replace(" ", "_")
            by_hand = recall(saved[f"picture_{of}"], saved[f"sound_{of}"])
            for direction, hits in zip(("picture to sound", "sound to picture"), by_hand, strict=True):
                assert found[f"{direction}, {name}", f"recall@{k}"] == pytest.approx(100 * hits[k].mean())
    assert ("untrained weights, picture to sound, own tokens", "recall@1") in found


def test_what_does_not_fit_is_refused_before_weights_are_loaded(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_args, **_options):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr("avtool.tasks.context.load_model", unwanted)
    of_two = write_data(tmp_path, [(f"{label}{k}", "test", label) for label in "ab" for k in range(2)])
    (tmp_path / "others").mkdir()
    others = write_data(tmp_path / "others", [("d", "test", "a cat"), ("e", "test", "b dog")])
    cases: list[tuple[Path, dict, type[Exception], str]] = [
        (others, {}, DataError, "the model knows none of the classes of .*: it tells a, b, c apart"),
        (of_two, {"split": "train"}, DataError, "no clip of split train; there are: test"),
        (data, {"protocols": ["top2"]}, UsageError, "no protocol 'top2'"),
        (data, {"task": "sing"}, UsageError, "no task 'sing'"),
        (of_two, {"protocols": ["knn"]}, DataError, "no clips to be neighbours"),
        (data, {"task": "localize", "windows": 10}, UsageError, "--windows changes nothing in localize"),
        (data, {"maps": ["attention"]}, UsageError, "--map changes nothing in classify"),
        (data, {"fold": (99, 100)}, DataError, "--fold 99/100 of split test of .* holds no clip"),
        (data, {"out": tmp_path}, UsageError, "--out .* is a folder, a file is needed"),
        (
            data,
            {"out": tmp_path / "x", "save_predictions": tmp_path / "." / "x"},
            UsageError,
            "would replace what --out writes",
        ),
    ]
    for folder, options, kind, words in cases:
        with pytest.raises(kind, match=words) as told:
            judge(model, folder, **options)
        assert told.value.hint
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model / BEST / name).read_bytes())
    with pytest.raises(
        DataError, match=r"tells 3 classes apart, whose names were not saved with it, .* has 2"
    ):
        judge(tmp_path, of_two)


def test_classes_are_matched_by_name_whatever_their_order_and_spelling(
    model: Path, data: Path, tmp_path: Path
) -> None:
    """The same clips in data that have two of the model's classes, one spelled otherwise, and one of their own."""
    whole, part = PreparedDataset(data, "test"), tmp_path / "part"
    part.mkdir()
    rows = [(whole.record(i).id, "test", *whole.record(i).labels) for i in range(12)]
    renamed = {"a": "c_", "b": "b?", "c": "a"}  # write_data makes clips by their first letter
    made = write_data(part, [(name, split, renamed[label]) for name, split, label in rows])
    assert PreparedDataset(made, "test").classes == ["a", "b?", "c_"]
    saved = tmp_path / "saved.npz"
    (table,) = judge(model, made, protocols=["top1"], save_predictions=saved)
    assert table.samples == 8 and table.left_out == {"of classes that the model does not know": 4}
    assert table.notes == [
        "Classes were matched by name: 2 of the model's 3 are in the data.",
        "Taken for the same: c_ as c.",
        "The model does not know b?.",
    ]
    with np.load(saved) as kept:
        assert kept["classes"].tolist() == ["a", "b", "c"]
        named = {"a": 0, "c_": 2}
        labels = [PreparedDataset(made, "test").record(int(i)).labels[0] for i in kept["clips"]]
        assert kept["targets"].argmax(axis=1).tolist() == [named[label] for label in labels]
        hits = kept["logits_fused"].argmax(axis=1) == kept["targets"].argmax(axis=1)
    assert values(table)["fused", "top1"] == pytest.approx(100 * hits.mean())


def test_a_table_says_over_how_many_classes_a_mean_is(model: Path, tmp_path: Path) -> None:
    rows = [("t0", "train", "c"), *((f"{k}", "test", "a;b" if k % 2 else "a") for k in range(4))]
    table, sets = judge(model, write_data(tmp_path, rows), protocols=["top1", "top5", "mAP", "AUC"])
    assert table.notes == ["top5 is 100 % by any scores: there are 3 classes."]
    assert sets.notes == [
        "mAP is the mean over 2 of 3 classes: the others (c) have no clip here.",
        "Every clip has 1 of these classes, whose average precision is 100 % by any scores.",
        "AUC is the mean over 1 of 3 classes: the others (a, c) have no clip here, or every one.",
    ]


def test_measures_that_any_model_gets_are_named(model: Path, tmp_path: Path) -> None:
    made = write_data(tmp_path, [("t0", "train", "c"), *((f"{k}", "test", "ab"[k % 2]) for k in range(6))])
    (table,) = judge(model, made, task="retrieve")
    assert table.notes == ["recall@10 is 100 % by any embedding: there are 6 clips."]
    (table,) = judge(model, made, protocols=["knn"])
    assert table.notes == ["6 clips are of classes without a training clip: none can be their neighbour."]


def test_clips_without_labels_are_refused(model: Path, tmp_path: Path) -> None:
    made = write_data(
        tmp_path, [("a", "train", "a"), ("b", "train", "b"), ("c", "train", "c"), ("d", "test", "")]
    )
    for protocols in ([], ["mAP"], ["knn"]):
        with pytest.raises(DataError, match="label"):
            judge(model, made, protocols=protocols)


def test_a_segmenter_of_as_many_classes_is_no_classifier(data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "dim": 128, "heads": 4, "classes": len(LABELS)}
    config = described("segmentation", settings)
    save_checkpoint(tmp_path, model=build_model(config.kind, settings), config=config)
    ClassNames(tuple(LABELS)).write(tmp_path)
    with pytest.raises(UsageError, match="of kind segmentation, not classifier or linear_probe"):
        judge(tmp_path, data, task="classify", protocols=["top1"])


def test_a_folder_of_ones_own_is_not_to_be_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").touch()
    for folder in (tmp_path, tmp_path / "mine.csv"):
        with pytest.raises(DataError, match="is not a prepared data set") as told:
            judge(model, folder)
        assert told.value.hint == "avtool prepare manifest FILE.csv --out DIR, and --data DIR"


@pytest.mark.parametrize("protocols", [["top1"], ["knn"]])
def test_weights_that_are_no_numbers_have_no_score(
    model: Path, data: Path, tmp_path: Path, protocols: list[str]
) -> None:
    broken, _, config = load_model(model / BEST)
    with torch.no_grad():
        broken.audio_head.bias[1] = torch.nan
    save_checkpoint(tmp_path / "m", model=broken, config=config)
    with pytest.raises(CheckpointError, match=r"audio_head\.bias holds values that are not finite"):
        judge(tmp_path / "m", data, protocols=protocols)


@pytest.mark.parametrize("protocols", [["top1"], ["knn"]])
def test_a_model_that_diverged_has_no_score(
    model: Path, data: Path, tmp_path: Path, protocols: list[str]
) -> None:
    broken, _, config = load_model(model / BEST)
    with torch.no_grad():
        for weight in broken.encoder.parameters():
            weight.mul_(1e30)
    save_checkpoint(tmp_path / "m", model=broken, config=config)
    with pytest.raises(CheckpointError, match=r"m: .* (NaN|not finite)") as caught:
        judge(tmp_path / "m", data, protocols=protocols, out=tmp_path / "out.json")
    assert caught.value.hint == "use an earlier checkpoint" and not (tmp_path / "out.json").exists()


def test_an_encoder_alone_has_no_head_to_judge(data: Path, tmp_path: Path) -> None:
    small = ("model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=24", "model.depth=2")
    recipe = load_recipe(
        "tiny",
        [
            "max_steps=1",
            "train.batch_size=4",
            "data.workers=0",
            *small,
            "model.decoder={dim: 16, depth: 1, heads: 2}",
        ],
    )
    encoder = engine.train(recipe, data=data, out=tmp_path / "encoder", device="cpu")
    with pytest.raises(UsageError, match=r"of kind .*, not classifier"):
        judge(encoder, data, protocols=["top1"])
    assert [table.protocol for table in judge(encoder, data)] == ["knn"]
