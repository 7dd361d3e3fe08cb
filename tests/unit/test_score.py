"""``avtool score``: held to other people's code and to ``evaluate``; the files that it reads; what it refuses."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from typer.testing import CliRunner

from avtool.checkpoint import load_model
from avtool.cli import app
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import batches_in_order
from avtool.data.prepare import prepare
from avtool.data.views import EvaluationViews, MaskViews, MixtureViews, masked_frames
from avtool.errors import AvtoolError, DataError, UsageError
from avtool.evaluate import Table, evaluate
from avtool.features import inputs_of
from avtool.metrics.bootstrap import bootstrap_difference
from avtool.metrics.localization import ciou_at, pointing_hits
from avtool.score import score
from avtool.tasks.given import read_predictions
from avtool.tasks.segment.given import palette
from avtool.tasks.separate.protocols import find_pairs, pair_names
from avtool.tasks.separate.train import mask_logits, mix
from tests import clips
from tests.models import untrained_models

BOXES = [
    [0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.95], [0.0, 0.5, 0.4, 0.9],
    [0.45, 0.4, 0.6, 0.6], [0.05, 0.05, 0.95, 0.9], [0.5, 0.0, 1.0, 0.5],
]  # fmt: skip
NAMES = [f"clip-{number}_000030" for number in range(6)]
CLASSES = ("a", "b", "c", "d")


def _drawn() -> np.ndarray:
    truth = np.zeros((6, 224, 224))
    for mask, (x1, y1, x2, y2) in zip(truth, BOXES, strict=True):
        mask[int(224 * y1) : int(224 * y2), int(224 * x1) : int(224 * x2)] = 1
    return truth


# All random numbers of this file; the peers' code was run on the same ones.
TRUTH, RNG = _drawn(), np.random.default_rng(25)
MAPS = RNG.random((6, 224, 224)) + np.array([0.8, 0.3, 0.6, 0.1, 0.5, 0.2])[:, None, None] * TRUTH
MASKS = TRUTH.copy()
MASKS[3] = 0
LOGITS = torch.tensor(RNG.normal(size=(6, 224, 224)) + 2 * MASKS - 0.5, dtype=torch.float32)
IDS = (MASKS * (np.arange(6) % 4 + 1)[:, None, None]).astype(np.int64)
GUESS = RNG.integers(0, 5, IDS.shape)
GUESS = np.where(RNG.random(IDS.shape) < 0.7, IDS, GUESS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of one box and one mask each, the mask of the fourth empty; of four classes."""
    folder = tmp_path_factory.mktemp("data")
    lines = [("id", "split", "label", "image", "audio", "boxes", "mask")]
    for number, name in enumerate(NAMES):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((224, 224, 3), 40 * number, np.uint8))
        cv2.imwrite(str(folder / f"m{number}.png"), MASKS[number].astype(np.uint8))
        soundfile.write(folder / f"{number}.wav", clips.tone(1.5, frequency=300 + 200 * number), clips.RATE)
        files = f"{number}.png", f"{number}.wav", json.dumps([BOXES[number]]), f"m{number}.png"
        lines.append((name, "test", CLASSES[number % 4], *files))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return prepare("manifest", folder / "table.csv", out=folder / "prepared").out


def saved(folder: Path, arrays: np.ndarray, names: list[str] = NAMES) -> Path:
    folder.mkdir()
    for name, array in zip(names, arrays, strict=True):
        np.save(folder / f"{name}.npy", array)
    return folder


def values(table: Table, row: int | str = 0) -> dict[str, float]:
    found = table.rows[row] if isinstance(row, int) else next(one for one in table.rows if one.name == row)
    return {name: measure.value for name, measure in found.measures.items()}


# Other people's code ---------------------------------------------------------------------------------


def test_maps_get_what_the_code_of_ez_vsl_and_sslalignment_gives_them(data: Path, tmp_path: Path) -> None:
    """EZ-VSL 95ff5bf, utils.py's Evaluator: finalize_AP50 and finalize_AUC, at its half of the pixels, at 0.5 and at
    the best of 0.05 to 0.95 of normalize_img; SSLalignment e7ae3c5, Evaluator_iiou: finalize_cIoU and finalize_AUC of
    cal_CIOU_adap (of cal_CIOU the same as EZ-VSL's)."""
    names = ["ciou-median", "ciou-adaptive", "ciou-fixed", "ciou-swept"]
    given = saved(tmp_path / "m", MAPS + 0.3)  # which scaling takes off again
    found = [list(values(table).values()) for table in score([given], data, protocols=names)]
    expected = [(1 / 3, 0.375), (0.5, 0.4666666666666667), (1 / 3, 0.425), (0.5, 0.4083333333333333)]
    np.testing.assert_allclose(np.array(found) / 100, expected, rtol=1e-12)


def test_masks_get_what_the_code_of_avsbench_gives_them(data: Path, tmp_path: Path) -> None:
    """AVSBench f7414af: mask_iou and Eval_Fmeasure of avs_s4, on logits; calc_color_miou_fscore of avss."""
    given = saved(tmp_path / "p", LOGITS.sigmoid().numpy())
    tpavi, both = score([given], data, protocols=["avs-tpavi", "avs-jf"])
    assert values(tpavi)["mIoU"] == pytest.approx(59.86624360084534, rel=1e-6)
    assert values(tpavi)["F"] == pytest.approx(78.7516713142395, rel=1e-6)
    assert values(both)["J&F"] == pytest.approx((59.86624360084534 + 78.7516713142395) / 2, rel=1e-6)
    (semantic,) = score([saved(tmp_path / "s", GUESS)], data, protocols=["avs-semantic"])
    assert values(semantic) == pytest.approx({"mIoU": 25.70945918560028, "F": 31.647780537605286}, rel=1e-6)


# evaluate --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return untrained_models(tmp_path_factory.mktemp("models"))


PROTOCOLS = {
    "localize": ["pointing", "ciou-median", "ciou-swept"],
    "classify": ["top1", "mAP"],
    "segment": ["avs-tpavi", "avs-published"],
    "separate": ["bss-eval"],
}


def predicted_masks(model: Path, data: Path, out: Path) -> None:
    """The model's probabilities of every masked frame of the test clips, in float32."""
    dataset = PreparedDataset(data, "test")
    network, log_mel, _ = load_model(model)
    frames = masked_frames(dataset, range(len(dataset)))
    views = MaskViews(
        dataset, frames, image_size=(32, 32), window_samples=16000, mask_size=(224, 224), semantic=False
    )
    found = []
    for number in range(len(frames)):
        sample = {name: torch.tensor(views.sample(number)[name])[None] for name in ("image", "waveform")}
        with torch.no_grad():
            found.append(network(*inputs_of(log_mel, sample))[0, 0])
    logits = torch.nn.functional.interpolate(torch.stack(found)[:, None], (224, 224), mode="bilinear")
    np.savez(out, ids=[dataset.record(int(i)).id for i in frames[:, 0]], masks=logits[:, 0].sigmoid().numpy())


def predicted_sounds(model: Path, data: Path, out: Path) -> None:
    """The model's sounds of every mixture of the test clips, in float32."""
    dataset = PreparedDataset(data, "test")
    network, log_mel, _ = load_model(model)
    pairs = find_pairs(dataset, np.arange(len(dataset)), seed=0).mixtures
    views = MixtureViews(EvaluationViews(dataset, image_size=(32, 32), window_samples=16000), pairs)
    found = []
    for batch in batches_in_order(views, range(len(pairs)), batch_size=1, workers=0):
        mixed = mix(log_mel, batch)
        with torch.no_grad():
            found.append(log_mel.masked(mixed.mixture, mask_logits(network, mixed).sigmoid()))
    np.savez(out, ids=pair_names(dataset, pairs), sounds=torch.cat(found).numpy())


PREDICTED = {"segment": predicted_masks, "separate": predicted_sounds}


@pytest.mark.parametrize("task", PROTOCOLS)
def test_what_a_model_predicted_gets_what_the_model_gets(
    task: str, model: Callable[[str], Path], synth: Callable[[int], Path], tmp_path: Path
) -> None:
    data, file = synth(20), tmp_path / "p.npz"
    judged = evaluate(
        model(task), data, protocols=PROTOCOLS[task], device="cpu", save_predictions=file, batch_size=1
    )
    if task in PREDICTED:  # what evaluate keeps is rounded
        PREDICTED[task](model(task), data, file)
    scored = score([file], data, protocols=PROTOCOLS[task])
    assert len(judged) == len(scored) > 0
    for one, other in zip(judged, scored, strict=True):
        assert (one.samples, one.recordings, one.left_out) == (
            other.samples,
            other.recordings,
            other.left_out,
        )
        assert one.protocol == other.protocol and other.rows[0].name == "p.npz"
        rows = {row.name: row.measures for row in one.rows}
        own = next(row for row in one.rows if row.role == "model")
        assert other.rows[0].measures == own.measures
        assert len(other.rows) > 1
        for row in other.rows[1:]:
            assert row.name in rows
            if row.role != "ceiling" or task != "separate":  # those are of the model's own spectrogram
                assert row.measures == rows[row.name]


# Files -----------------------------------------------------------------------------------------------


def by_id(folder: Path) -> Path:
    np.savez(folder / "by-id.npz", **dict(zip(NAMES, MAPS, strict=True)))
    return folder / "by-id.npz"


def with_ids(folder: Path) -> Path:
    np.savez(folder / "ids.npz", ids=NAMES[::-1], maps=MAPS[::-1])
    return folder / "ids.npz"


def all_in_order(folder: Path) -> Path:
    np.save(folder / "all.npy", MAPS)
    return folder / "all.npy"


@pytest.mark.parametrize("write", [by_id, with_ids, all_in_order])
def test_maps_are_the_same_in_whatever_file_they_lie(
    write: Callable[[Path], Path], data: Path, tmp_path: Path
) -> None:
    names = ["pointing", "ciou-median"]
    expected = [values(table) for table in score([saved(tmp_path / "m", MAPS)], data, protocols=names)]
    found = score([write(tmp_path)], data, protocols=names)
    assert [values(table) for table in found] == expected
    assert found[0].left_out == {} and found[0].notes == []


def test_ez_vsls_pictures_are_read_back(data: Path, tmp_path: Path) -> None:
    """Written as its test.py with --save_visualizations does."""
    smooth = np.stack([cv2.GaussianBlur(found, (0, 0), 20) for found in MAPS])
    low, high = smooth.min(axis=(1, 2), keepdims=True), smooth.max(axis=(1, 2), keepdims=True)
    scaled = (smooth - low) / (high - low)
    for name, found in zip(NAMES, scaled, strict=True):
        frame = np.kron(RNG.integers(0, 256, (8, 8, 3)), np.ones((28, 28, 1))).astype(np.uint8)
        colours = cv2.applyColorMap(np.uint8(found * 255)[:, :, None], cv2.COLORMAP_JET)
        for kind in ("image", "gt_boxes", "pred_obj", "pred_av_obj"):
            cv2.imwrite(str(tmp_path / f"{name}_{kind}.jpg"), frame)
        cv2.imwrite(str(tmp_path / f"{name}_pred_av.jpg"), cv2.addWeighted(colours, 0.8, frame, 0.2, 0))
    (tmp_path / "iou_test_av.txt").write_text("0,0.5\n")
    read = read_predictions([tmp_path], NAMES)
    for name, found in zip(NAMES, scaled, strict=True):
        assert np.abs(read.one(name, "the map", 2) - 255 * found).mean() < 1.5
    (table,) = score([tmp_path], data, protocols=["ciou-fixed"])
    assert "read back from EZ-VSL's pictures" in " ".join(table.notes) and table.samples == 6
    expected = ciou_at(smooth, TRUTH)[0]
    assert values(table)["cIoU >= 0.5"] == pytest.approx(100 * (expected >= 0.5).mean())


def test_avsbenchs_tree_of_masks_is_read(data: Path, tmp_path: Path) -> None:
    """Written as save_mask of avs_s4 does: CATEGORY/VIDEO/VIDEO_K.png of mode P, which hold 0 and 255."""
    for name, mask in zip(NAMES, LOGITS > 0, strict=True):
        folder = tmp_path / "pred_masks" / "category" / name
        folder.mkdir(parents=True)
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).convert("P").save(folder / f"{name}_0.png")
    (table,) = score([tmp_path / "pred_masks"], data, protocols=["avs-tpavi"])
    assert values(table)["mIoU"] == pytest.approx(59.86624360084534, rel=1e-6)


def test_masks_of_zero_and_one_are_no_bytes(data: Path, tmp_path: Path) -> None:
    """One mask alone would not tell: a byte of 1 is next to nothing."""
    given = saved(tmp_path / "ones", (LOGITS > 0).numpy().astype(np.uint8))
    assert values(score([given], data, protocols=["avs-tpavi"])[0])["mIoU"] == pytest.approx(59.866, abs=1e-2)
    nearly = (255 * (LOGITS > 0).numpy()).astype(np.uint8)
    nearly[3] = 1
    (table,) = score([saved(tmp_path / "bytes", nearly)], data, protocols=["avs-tpavi"])
    assert values(table)["mIoU"] > 59.866 + 100 / 6 * 0.3  # the fourth frame is as empty as its truth


def test_a_colour_between_two_of_the_palettes_is_one_of_them(data: Path, tmp_path: Path) -> None:
    """As AVSBench's save_color_mask of avss writes class numbers, which resizes colours."""
    colours = palette(71)
    assert colours[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colours[8].tolist() == [64, 0, 0] and len(np.unique(colours, axis=0)) == 71
    for name, ids in zip(NAMES, IDS, strict=True):
        picture = Image.fromarray(colours[ids].astype(np.uint8)).resize((360, 240))
        picture.save(tmp_path / f"{name}_0.png")
    (table,) = score([tmp_path], data, protocols=["avs-semantic"])
    assert values(table)["mIoU"] > 97
    for name, ids in zip(NAMES, IDS, strict=True):
        Image.fromarray(ids.astype(np.uint8)).save(tmp_path / f"{name}_0.png")
    assert values(score([tmp_path], data, protocols=["avs-semantic"])[0])["mIoU"] == 100


SCORES = RNG.normal(size=(6, 4)) + 2 * (np.arange(6)[:, None] % 4 == np.arange(4))


def test_class_scores_are_read_from_a_table_by_the_names_of_classes(data: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", SCORES)
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        turned = [[name, *line[::-1]] for name, line in zip(NAMES, SCORES, strict=True)]
        csv.writer(file).writerows([["id", *CLASSES[::-1]], *turned[::-1]])
    (by_order,) = score([tmp_path / "all.npy"], data, protocols=["top1", "top5"])
    (by_name,) = score([tmp_path / "scores.csv"], data, protocols=["top1", "top5"])
    hits = SCORES.argmax(axis=1) == np.arange(6) % 4
    assert values(by_order) == values(by_name) == {"top1": pytest.approx(100 * hits.mean()), "top5": 100}
    assert 0 < hits.mean() < 1


def test_separated_sounds_are_read_as_sound_of_pixels_writes_them(data: Path, tmp_path: Path) -> None:
    dataset = PreparedDataset(data, "test")
    with pytest.raises(
        DataError, match=r"has nothing for 6 of 6 clips: clip-0_000030\+clip-\d_000030"
    ) as missing:
        score([saved(tmp_path / "m", MAPS)], data, protocols=["bss-eval"])
    assert "clip-0_000030" in missing.value.message
    pairs = find_pairs(dataset, np.arange(6), seed=0).mixtures
    for name, pair in zip(pair_names(dataset, pairs), pairs, strict=True):
        folder = tmp_path / "vis" / name
        folder.mkdir(parents=True)
        sounds = [dataset.waveform(int(i), 8000, 8000) for i in pair]
        soundfile.write(folder / "mix.wav", sounds[0], dataset.sample_rate)
        for number, sound in enumerate(sounds, 1):
            soundfile.write(folder / f"gt{number}.wav", sound, dataset.sample_rate)
            noise = RNG.normal(0, 0.003, len(sound))
            soundfile.write(folder / f"pred{number}.wav", sound / 32768 + noise, dataset.sample_rate)
    (table,) = score([tmp_path / "vis"], data, protocols=["bss-eval"])
    assert table.samples == 12 and values(table)["SDR"] > 20 > values(table, "the mixture itself")["SDR"]
    roles = {row.name: row.role for row in table.rows}
    assert roles == {
        "vis": "model",
        "the mixture itself": "floor",
        "ideal ratio mask": "ceiling",
        "ideal binary mask": "ceiling",
    }
    soundfile.write(folder / "pred1.wav", sounds[0], 8000)
    with pytest.raises(DataError, match=r"pred1.wav has 8000 samples a second in 1 channels, the data have"):
        score([tmp_path / "vis"], data, protocols=["bss-eval"])


# What is wrong ---------------------------------------------------------------------------------------


def changed(where: tuple, value: float) -> np.ndarray:
    maps = MAPS.copy()
    maps[where] = value
    return maps


def without_one(folder: Path) -> Path:
    return saved(folder, MAPS[1:], NAMES[1:])


def misnamed(folder: Path) -> Path:
    return saved(folder, MAPS, [*NAMES[:5], "clip-9"])


def not_finite(folder: Path) -> Path:
    return saved(folder, changed((2, 3, 4), np.nan))


def of_another_shape(folder: Path) -> Path:
    saved(folder, MAPS)
    np.save(folder / f"{NAMES[4]}.npy", MAPS[4, :100])
    return folder


def coloured(folder: Path) -> Path:
    without_one(folder)
    cv2.imwrite(str(folder / f"{NAMES[0]}.png"), RNG.integers(0, 256, (224, 224, 3)).astype(np.uint8))
    return folder


def overlaid(folder: Path) -> Path:
    without_one(folder)
    cv2.imwrite(str(folder / f"{NAMES[0]}.jpg"), np.zeros((224, 224, 3), np.uint8))
    return folder


def twice(folder: Path) -> Path:
    saved(folder, MAPS)
    np.savez(folder / "more.npz", **{NAMES[0]: MAPS[0]})
    return folder


def broken(folder: Path) -> Path:
    saved(folder, MAPS)
    (folder / f"{NAMES[0]}.npy").write_bytes(b"\x93NUMPY")
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


WRONG = {
    without_one: "has nothing for 1 of 6 clips: clip-0_000030.*--some",
    misnamed: "nothing for 1 of 6 clips: clip-5_000030; there are predictions for others: clip-9",
    not_finite: "clip-2_000030.npy holds values that are not finite",
    of_another_shape: r"clip-4_000030.npy: the map of clip clip-4_000030 is of shape \(100, 224\), not \(224, 224\)",
    coloured: "clip-0_000030.png is a coloured picture",
    overlaid: r"clip-0_000030.jpg is a map drawn over a frame .* cannot be read back.*np.save",
    twice: "are of the same clip",
    broken: "clip-0_000030.npy cannot be read",
    empty: "no predictions are there",
}


@pytest.mark.parametrize("write", WRONG)
def test_what_is_wrong_with_maps_is_named_with_the_way_out(
    write: Callable[[Path], Path], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(AvtoolError) as error:
        score([write(tmp_path / "given")], data, protocols=["pointing"])
    assert error.value.hint
    assert re.search(WRONG[write], f"{error.value.message} {error.value.hint}"), error.value


def test_masks_that_are_no_probabilities_or_of_other_frames_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"values from .* to .*, they are to be from 0 to 1") as error:
        score([saved(tmp_path / "logits", LOGITS.numpy())], data, protocols=["avs-tpavi"])
    assert "exp(-logits)" in error.value.hint
    several = np.stack([MASKS, MASKS], axis=1)
    with pytest.raises(DataError, match="has 2 masks, the data have 1 frames with one"):
        score([saved(tmp_path / "two", several)], data, protocols=["avs-tpavi"])
    with pytest.raises(DataError, match="holds 9, the data have classes 0 to 4"):
        score([saved(tmp_path / "ids", GUESS + 5)], data, protocols=["avs-semantic"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["slavc-extended"], "predictions cannot be scored by slavc-extended"),
        (["pointing", "top1"], "the protocols are not of one task"),
        (["avs-tpavi", "avs-semantic"], "avs-semantic judges masks with classes"),
    ],
)
def test_protocols_that_judge_no_such_predictions_are_refused(
    names: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        score([saved(tmp_path / "m", MAPS)], data, protocols=names)


def test_some_clips_alone_are_scored_and_the_others_counted_where_that_is_asked(
    data: Path, tmp_path: Path
) -> None:
    given = saved(tmp_path / "m", MAPS[[0, 1, 2, 4]], [*NAMES[:3], "other"])
    (table,) = score([given], data, protocols=["pointing"], some=True)
    assert (table.samples, table.left_out) == (3, {"without a prediction": 3})
    assert "1 predictions of no clip of the split were not looked at: other." in table.notes
    hits = pointing_hits(MAPS[:3], TRUTH[:3] > 0)
    assert values(table)["pointing"] == pytest.approx(100 * hits.mean())


# Two sets --------------------------------------------------------------------------------------------


def test_two_sets_are_paired_by_clip(data: Path, tmp_path: Path) -> None:
    other = RNG.random(MAPS.shape)
    sets = [saved(tmp_path / "a", MAPS), saved(tmp_path / "b", other)]
    pointing, fixed = score(sets, data, protocols=["pointing", "ciou-fixed"], compare=True)
    assert [row.name for row in pointing.rows][:3] == ["a", "b", "a - b"]
    assert [row.role for row in pointing.rows][:3] == ["model", "model", "difference"]
    hits = [100 * pointing_hits(found, TRUTH > 0) for found in (MAPS, other)]
    expected = bootstrap_difference(*hits, groups=np.array([f"{k}.wav" for k in range(6)]))
    measure = pointing.rows[2].measures["pointing"]
    assert (measure.value, measure.low, measure.high) == pytest.approx(expected[:3])
    assert expected.low < expected.value < expected.high
    assert values(fixed, "a - b")["AUC"] == pytest.approx(
        values(fixed, "a")["AUC"] - values(fixed, "b")["AUC"]
    )
    for table in score([sets[0], sets[0]], data, protocols=["pointing"], compare=True):
        assert table.rows[0].name == str(sets[0])
        assert vars(table.rows[2].measures["pointing"]) | {"of": None} == {
            "value": 0, "low": 0, "high": 0, "of": None,
        }  # fmt: skip


def test_numbers_of_a_whole_set_are_paired_too(data: Path, tmp_path: Path) -> None:
    close = LOGITS + 0.05 * torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(0))
    sets = [saved(tmp_path / name, found.sigmoid().numpy()) for name, found in (("a", LOGITS), ("b", close))]
    (table,) = score(sets, data, protocols=["avs-tpavi"], compare=True)
    own, difference = table.rows[0].measures["F"], table.rows[2].measures["F"]
    assert difference.value == pytest.approx(own.value - values(table, "b")["F"])
    assert difference.high - difference.low < 0.1 * (own.high - own.low)  # paired, or it would be wider


def test_two_sets_of_which_some_clips_suffice_are_judged_on_what_both_have(
    data: Path, tmp_path: Path
) -> None:
    sets = [saved(tmp_path / "a", MAPS[:5], NAMES[:5]), saved(tmp_path / "b", MAPS[1:], NAMES[1:])]
    with pytest.raises(DataError, match="a has nothing for 1 of 6 clips"):
        score(sets, data, protocols=["pointing"], compare=True)
    (table,) = score(sets, data, protocols=["pointing"], compare=True, some=True)
    assert (table.samples, table.left_out) == (4, {"without a prediction": 2})
    with pytest.raises(UsageError, match="takes two sets of predictions, there are 1"):
        score(sets[:1], data, protocols=["pointing"], compare=True)


def test_the_command_prints_tables_and_writes_them(data: Path, tmp_path: Path) -> None:
    sets = [saved(tmp_path / "a", MAPS), saved(tmp_path / "b", MAPS[:, ::-1])]
    common = ["score", *map(str, sets), "--compare", "--data", str(data), "--protocol", "pointing"]
    result = CliRunner().invoke(app, [*common, "--out", str(tmp_path / "out.json")], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert "localize by pointing: n = 6" in result.stdout and "a - b (difference)" in result.stdout
    result = CliRunner().invoke(app, [*common, "--json"])
    written = json.loads(result.stdout)
    assert written == json.loads((tmp_path / "out.json").read_text())
    assert written["predictions"] == [str(one) for one in sets] and written["data"]["split"] == "test"
    assert set(written["tables"][0]["rows"][0]["measures"]["pointing"]) == {"value", "low", "high"}
