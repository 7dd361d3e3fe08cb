"""The localization protocols and their controls, on cases small enough to count by hand; then on prepared data."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from avtool import evaluate as evaluation
from avtool.checkpoint import save_checkpoint
from avtool.config.checkpoint import read_config
from avtool.data.catalog import vggsound
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.data.synth import render
from avtool.errors import DataError, NotFinite, UsageError
from avtool.features import upsampled
from avtool.metrics.localization import (
    EVALUATION_SIZE,
    binomial_error,
    boxes_to_mask,
    centred_disc,
    ciou_adaptive,
    ciou_median,
    consensus_map,
    exchange_by_class,
    exchange_sounds,
    ideal_map,
    pointing_hits,
    slavc_confidence,
    slavc_extended,
)
from avtool.model.build import build_model
from avtool.tasks.localize import protocols as evaluate
from avtool.tasks.localize.pointing import (
    LOCALIZATION_JSON,
    PointingResult,
    keep_localization,
    kept_localization,
    measure_pointing,
)
from avtool.tasks.localize.predict import localize
from tests import clips
from tests.models import described


def test_a_box_covers_the_pixels_whose_centres_it_holds() -> None:
    mask = boxes_to_mask((4, 8), np.array([[0.25, 0.5, 0.75, 1.0]]))
    assert mask.dtype == bool
    assert [row.nonzero()[0].tolist() for row in mask] == [[], [], [2, 3, 4, 5], [2, 3, 4, 5]]
    both = boxes_to_mask((4, 8), np.array([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.125, 0.25]]))
    assert both.sum() == 9 and both[0, 0]
    assert not boxes_to_mask((4, 8), np.zeros((0, 4))).any()
    assert boxes_to_mask((4, 8), np.array([[0, 0, 1, 1]])).all()


def test_the_highest_cell_is_a_hit_where_its_centre_lies_inside() -> None:
    maps = np.zeros((3, 2, 4))
    maps[0, 1, 2] = maps[1, 0, 0] = maps[2, 0, 3] = 1
    truth = np.zeros((3, 8, 16), bool)
    truth[:, 4:, 8:12] = True  # cell (1, 2), all of it
    truth[2, :4, 12:14] = True  # of cell (0, 3) the left half, which ends before its centre
    assert pointing_hits(maps, truth).tolist() == [1, 0, 0]
    truth[2, :4, 14] = True
    assert pointing_hits(maps, truth).tolist() == [1, 0, 1]
    assert pointing_hits(maps, truth).mean() == pytest.approx(2 / 3)


def test_a_map_that_says_nothing_gets_the_truths_area_and_no_luck() -> None:
    truth = np.zeros((1, 8, 8), bool)
    truth[0, :2, :4] = True  # the upper left corner, where argmax would fall
    for level in (0.0, -1.5, 7.0):
        assert pointing_hits(np.full((1, 8, 8), level), truth) == pytest.approx(8 / 64)
    two = np.zeros((1, 8, 8))
    two[0, 0, 0] = two[0, 7, 7] = 1
    assert pointing_hits(two, truth) == 0.5


def test_upsampling_does_not_move_where_a_map_points() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.pad(torch.rand(50, 4, 4, generator=generator), (1, 1, 1, 1))
    fine = torch.nn.functional.interpolate(coarse[:, None], (42, 42), mode="bilinear")[:, 0]
    truth = boxes_to_mask((224, 224), np.array([[0.05, 0.3, 0.6, 0.95]]))[None].repeat(50, 0)
    hits = pointing_hits(coarse.numpy(), truth)
    assert 0 < hits.mean() < 1
    assert np.array_equal(hits, pointing_hits(fine.numpy(), truth))


def test_an_image_without_truth_is_no_miss() -> None:
    maps, truth = np.random.default_rng(0).random((2, 4, 4)), np.zeros((2, 4, 4), bool)
    truth[0] = True
    hits = pointing_hits(maps, truth)
    assert hits[0] == 1 and math.isnan(hits[1])


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(NotFinite, match="not finite"):
        pointing_hits(np.full((1, 2, 2), np.nan), np.ones((1, 2, 2), bool))
    with pytest.raises(ValueError, match="not B maps and B masks"):
        pointing_hits(np.zeros((2, 2, 2)), np.ones((1, 2, 2), bool))


def test_the_disc_points_to_the_middle_and_falls_off_evenly() -> None:
    for size, highest in (((5, 5), [(2, 2)]), ((4, 6), [(1, 2), (1, 3), (2, 2), (2, 3)])):
        disc = centred_disc(size)
        assert disc.dtype == np.float32
        assert list(zip(*np.nonzero(disc == disc.max()), strict=True)) == highest
        assert np.array_equal(disc, disc[::-1]) and np.array_equal(disc, disc[:, ::-1])
    assert centred_disc((101, 101))[50, 50] == 1
    inside = centred_disc((200, 200)) > 0
    assert inside.mean() == pytest.approx(math.pi / 4, abs=0.01)


def test_the_standard_error_is_the_binomial_one() -> None:
    assert binomial_error(0.5, 100) == pytest.approx(0.05)
    assert binomial_error(1.0, 7) == 0


# cIoU -------------------------------------------------------------------------------------------------


def naive_ciou(level: np.ndarray, truth: np.ndarray, theta: float) -> float:
    """The definition, pixel by pixel."""
    inside = union = 0.0
    for p, g in zip(level.ravel(), truth.ravel(), strict=True):
        inside += g * (p >= theta)
        union += g + (p >= theta) * (g == 0)
    return inside / union


def test_corners_are_rounded_down_to_whole_pixels_where_the_tables_do_so() -> None:
    box = np.array([[0.2, 0.0, 0.7, 0.5]])  # of 4 columns: from 0.8 to 2.8
    assert boxes_to_mask((2, 4), box)[0].tolist() == [False, True, True, False]
    assert boxes_to_mask((2, 4), box, whole_pixels=True)[0].tolist() == [True, True, False, False]
    assert not boxes_to_mask((2, 4), box, whole_pixels=True)[1].any()


def test_what_one_annotator_drew_counts_half() -> None:
    left, middle = [0, 0, 0.5, 1], [0.25, 0, 0.75, 1]
    assert consensus_map((1, 4), np.array([left, middle]))[0].tolist() == [0.5, 1, 0.5, 0]
    assert consensus_map((1, 4), np.array([left, left, left]))[0].tolist() == [1, 1, 0, 0]
    assert not consensus_map((1, 4), np.zeros((0, 4))).any()


def test_half_of_the_image_is_always_predicted() -> None:
    level = np.arange(8.0).reshape(1, 2, 4)  # the lower row is the upper half
    truth = np.zeros((3, 2, 4))
    truth[0, 1] = 1  # the lower row
    truth[1, 1, :1] = 1  # a pixel of it
    truth[2] = 1  # everything
    assert ciou_median(level.repeat(3, 0), truth).tolist() == [1, 1 / 4, 4 / 8]
    assert ciou_adaptive(level.repeat(3, 0), truth).tolist() == [1, 0, 1]


def test_half_pixels_count_half_inside_and_not_at_all_outside() -> None:
    level = np.array([[[0.0, 1.0, 2.0, 3.0]]])
    truth = np.array([[[0.0, 0.5, 0.5, 0.0]]])
    assert ciou_median(level, truth)[0] == 0.5 / (1 + 1)  # predicts the last two
    assert ciou_adaptive(level, truth)[0] == 0.5 / (1 + 1)  # two pixels hold truth, so the same two
    assert ciou_median(level, np.array([[[0.0, 0.0, 0.5, 1.0]]]))[0] == 1


def test_a_constant_map_predicts_everything_or_a_draw_by_lot() -> None:
    truth = np.zeros((1, 4, 4), bool)
    truth[0, 0] = True
    for level in (0.0, -2.0, 7.0):
        flat = np.full((1, 2, 2), level)
        assert ciou_median(flat, truth)[0] == 4 / 16
        assert ciou_adaptive(flat, truth)[0] == pytest.approx(1 / (4 + 3))  # of 4 drawn, one is inside


def test_ties_share_what_is_left_to_predict() -> None:
    level = np.array([[[2.0, 1.0, 1.0, 0.0]]])
    truth = np.array([[[True, True, False, False]]])
    assert ciou_adaptive(level, truth)[0] == pytest.approx(1.5 / 2.5)
    assert ciou_median(level, truth)[0] == pytest.approx(2 / 3)


def test_upsampling_is_bilinear_between_cell_centres() -> None:
    (found,) = upsampled(np.array([[[0.0, 1.0], [2.0, 3.0]]], np.float32), (4, 8))
    np.testing.assert_allclose(found[0], np.array([0, 0, 1, 3, 5, 7, 8, 8]) / 8)
    np.testing.assert_allclose(found[:, 0], [0, 0.5, 1.5, 2])


def test_the_map_is_upsampled_to_its_truth() -> None:
    generator = np.random.default_rng(0)
    coarse, truth = generator.random((5, 7, 7)), generator.integers(0, 3, (5, 28, 28)) / 2
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[:, None], (28, 28), mode="bilinear", align_corners=False
    )[:, 0].numpy()
    for b in range(5):
        order = np.sort(fine[b].ravel())
        half, adaptive = order[28 * 28 // 2], order[28 * 28 - (truth[b] > 0).sum()]
        assert ciou_median(coarse, truth)[b] == pytest.approx(naive_ciou(fine[b], truth[b], half))
        assert ciou_adaptive(coarse, truth)[b] == pytest.approx(naive_ciou(fine[b], truth[b], adaptive))
        assert ciou_median(coarse[b : b + 1], truth[b : b + 1])[0] == ciou_median(coarse, truth)[b]
    assert np.array_equal(ciou_median(coarse, truth), ciou_median(3 * coarse - 5, truth))


def test_an_empty_truth_is_left_out_and_counted() -> None:
    maps, truth = np.random.default_rng(0).random((2, 4, 4)), np.zeros((2, 4, 4))
    truth[0, 1:3] = 1
    for ciou in (ciou_median(maps, truth), ciou_adaptive(maps, truth)):
        assert 0 < ciou[0] < 1 and math.isnan(ciou[1])


def summary(ciou: np.ndarray) -> list[float]:
    """The share of images at 0.5 or more, and the area under the curve."""
    return [values.mean() for values in evaluate._shares(ciou).values()]


def test_the_summary_is_the_share_at_a_half_and_the_area_under_all_shares() -> None:
    assert summary(np.ones(3)) == pytest.approx([1, 1])
    assert summary(np.zeros(3)) == pytest.approx([0, 0.025])  # all of them at t = 0, none at 0.05
    assert summary(np.array([0.5, 0.49])) == pytest.approx([0.5, (0.05 * 10.5 + 0.05 * 9.5) / 2])


def test_the_ideal_map_has_every_pixel_of_the_truth_and_is_bound_by_the_protocol() -> None:
    truth = np.zeros((2, 10, 10))
    truth[0, :3, :5] = 1  # 15 of 100 pixels
    truth[1, 2:5, :] = 0.5
    truth[1, 2, :] = 1
    assert ciou_median(ideal_map(truth), truth) == pytest.approx([15 / 50, 20 / (20 + 20)])
    assert ciou_adaptive(ideal_map(truth), truth) == pytest.approx([1, 1])


def test_maps_that_cannot_be_scored_are_refused() -> None:
    for protocol in (ciou_median, ciou_adaptive):
        with pytest.raises(NotFinite, match="not finite"):
            protocol(np.full((1, 2, 2), np.inf), np.ones((1, 4, 4)))
        with pytest.raises(ValueError, match="not B maps and B masks"):
            protocol(np.zeros((2, 2, 2)), np.ones((1, 2, 2)))


@pytest.mark.skipif("AVTOOL_TEST_DATA" not in os.environ, reason="needs real annotations")
def test_vgg_ss_has_its_floor_and_its_ceiling() -> None:
    """Counted over all 5,158 clips: a blind disc gets 34.0 / 37.4 and 43.7 / 42.9; nobody more than 50.5."""
    table = Path(os.environ["AVTOOL_TEST_DATA"]) / "annotations" / "vggss.json"
    drawn = vggsound.read_boxes(table).values()
    disc = centred_disc(EVALUATION_SIZE)[None]
    scores = []
    for known in drawn:
        truth = boxes_to_mask(EVALUATION_SIZE, np.array(known.valid), whole_pixels=True)[None]
        median, adaptive = ciou_median(disc, truth)[0], ciou_adaptive(disc, truth)[0]
        scores.append((median, adaptive, ciou_median(ideal_map(truth), truth)[0]))
    assert np.isnan(scores)[:, 0].sum() == 2 and len(scores) == 5158
    median, adaptive, ceiling = (summary(column) for column in np.nan_to_num(np.array(scores)).T)
    assert median == pytest.approx([0.340, 0.374], abs=5e-4)
    assert adaptive == pytest.approx([0.437, 0.429], abs=5e-4)
    assert ceiling[0] == pytest.approx(0.505, abs=5e-4)


def test_confidence_is_the_top_quarter_of_the_cosines() -> None:
    maps = np.full((2, 4, 4), -1.0)
    maps[0, 0] = [1, 1, 0, 0]
    assert slavc_confidence(maps, (4, 4)).tolist() == [(1 + 1 + 0.5 + 0.5) / 4, 0]
    assert slavc_confidence(np.ones((1, 2, 2)))[0] == 1


def test_silent_images_cost_precision_and_missed_ones_recall() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    ciou = np.array([0.8, np.nan, 0.5, 0.1, 0.6])
    # t 0.9: 1 hit, 3 boxes below: P 1, R 1/4; 0.8: P 1/2, R 1/4; 0.7: P 2/3, R 2/4; 0.6: P 2/4, R 2/3; 0.5: P 3/5, R 1
    result = slavc_extended(confidence, ciou)
    assert result.ap == pytest.approx(1 / 4 * 1 + 1 / 4 * 2 / 3 + (2 / 3 - 1 / 2) * 3 / 5 + 1 / 3 * 3 / 5)
    assert result.max_f1 == pytest.approx(2 * (3 / 5) / (1 + 3 / 5))
    assert result.loc_acc == 2 / 4  # 0.5 is not above 0.5


def test_silent_images_alone_and_none_at_all() -> None:
    alone = slavc_extended(np.array([0.2, 0.4]), np.array([np.nan, np.nan]))
    assert alone[:2] == (0, 0) and math.isnan(alone.loc_acc)
    perfect = slavc_extended(np.array([0.9, 0.8, 0.1]), np.array([0.9, 0.7, np.nan]))
    assert perfect == (1, 1, 1)
    assert all(math.isnan(value) for value in slavc_extended(np.zeros(0), np.zeros(0)))


def test_one_confidence_for_all_is_one_threshold() -> None:
    result = slavc_extended(np.full(4, 0.5), np.array([0.9, 0.9, 0.2, np.nan]))
    assert result == (pytest.approx(1 / 2), pytest.approx(2 / 3), pytest.approx(2 / 3))


@pytest.mark.parametrize("seed", range(5))
def test_everybody_gets_the_sound_of_another_class(seed: int) -> None:
    labels = [(k % 4,) if k % 5 else (k % 4, 4) for k in range(41)]
    sound = exchange_by_class(labels, seed=seed)
    assert sorted(sound.tolist()) == list(range(41))
    assert all(not set(labels[clip]) & set(labels[other]) for clip, other in enumerate(sound))
    assert np.array_equal(sound, exchange_by_class(labels, seed=seed))
    assert not np.array_equal(sound, exchange_by_class(labels, seed=seed + 1))


@pytest.mark.parametrize("seed", range(20))
def test_an_exchange_is_found_wherever_there_is_one(seed: int) -> None:
    """Exactly half of the clips are of one class: each of them must get a sound of the rest, and the rest
    theirs.
    """
    labels = [(0,)] * 6 + [(1,)] * 2 + [(2,)] * 4
    sound = exchange_by_class(labels, seed=seed)
    assert all((labels[clip] == (0,)) != (labels[other] == (0,)) for clip, other in enumerate(sound))


@pytest.mark.parametrize("labels", [[(0,)] * 3, [(0,)] * 3 + [(1,)] * 2, [(0,)]])
def test_where_no_exchange_is_there_it_says_so(labels: list[tuple[int, ...]]) -> None:
    with pytest.raises(DataError, match="cannot be exchanged") as error:
        exchange_by_class(labels, seed=0)
    assert "half" in error.value.hint


def test_clips_without_labels_are_named() -> None:
    with pytest.raises(DataError, match="1 of 3 clips have no label"):
        exchange_by_class([(0,), (), (1,)], seed=0)


# On prepared data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "recordings", "clips"),
    [
        ([()] * 7, list("aabbccd"), range(7)),
        ([(0, 1)] * 6 + [(2, 3)], list("aaabbbc"), range(7)),
        ([(0,)] * 5, list("aaaab"), range(5)),  # the recordings cannot be exchanged, the clips can
        ([(0,)] * 6, list("aaaaaa"), [3, 3, 3, 5, 5, 5]),
    ],
)
def test_where_no_class_can_be_exchanged_it_is_another_clips_sound_and_said(
    labels: list[tuple[int, ...]], recordings: list[str], clips: Sequence[int]
) -> None:
    sounds, called, (note,) = exchange_sounds(labels, recordings, clips, seed=1)
    assert sounds is not None and sorted(sounds) == list(range(len(labels)))
    names = recordings if len(set(recordings)) > 2 else clips
    assert all(names[own] != names[other] for own, other in enumerate(sounds))
    assert called == "another clip's sound"
    assert note.startswith("No row with another class's sound: ")
    assert note.endswith("; one with another clip's sound is in its place.")
    assert np.array_equal(sounds, exchange_sounds(labels, recordings, clips, seed=1)[0])


def test_a_single_clip_has_no_other_sound() -> None:
    found = exchange_sounds([(0,)] * 3, ["a"] * 3, [4, 4, 4], seed=0)
    assert found.sounds is None and "; nor with another clip's sound: " in found.notes[0]
    assert exchange_sounds([(0,), (1,)], ["a", "a"], [0, 1], seed=0)[1:] == ("another class's sound", ())


SETTINGS = {
    "image_size": [32, 32], "audio_size": [32, 64], "patch_size": 8, "dim": 32, "depth": 2, "heads": 2,
    "fusion": "factorized", "fusion_tokens": [3, 2, 2], "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(40)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model = build_model("autoencoder", SETTINGS)
    torch.manual_seed(7)
    model.reset_parameters()
    spectrogram = {"sample_rate": 16000, "n_fft": 400, "hop": 250}
    save_checkpoint(
        tmp_path / "run" / "checkpoints" / "step-00000001",
        model=model,
        config=described("autoencoder", SETTINGS, spectrogram),
    )
    return tmp_path / "run"


def objects_that_sound(dataset: PreparedDataset) -> Iterator[float]:
    """Of each clip with boxes the share of its objects whose middle lies in one of those, by hand."""
    for i in range(len(dataset)):
        if len(boxes := dataset.record(i).boxes):
            things = [thing["box"] for thing in dataset.facts(i)["view"]]
            middles = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in things]
            inside = [any(a <= x < c and b <= y < d for a, b, c, d in boxes) for x, y in middles]
            yield sum(inside) / len(inside)


def test_a_model_is_measured_beside_its_controls(data: Path, run: Path) -> None:
    result = measure_pointing(run, data, kind="difference", device="cpu")
    assert (result.protocol, result.data, result.split, result.kind) == (
        "pointing",
        "synth",
        "test",
        "difference",
    )
    assert result.clips + result.left_out == len(PreparedDataset(data, "test")) == 8
    assert 0 < result.anywhere < 0.6
    assert result.objects == pytest.approx(np.mean(list(objects_that_sound(PreparedDataset(data, "test")))))
    hits = result.score * result.clips
    assert hits == pytest.approx(round(hits))
    assert result == measure_pointing(run, data, kind="difference", device="cpu")


def test_the_untrained_control_has_this_seeds_weights(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose weights are the control's own scores the same as the control."""
    model = build_model("autoencoder", SETTINGS)
    torch.manual_seed(5)
    model.reset_parameters()
    checkpoint = run / "checkpoints" / "step-00000001"
    save_checkpoint(checkpoint, model=model, config=read_config(checkpoint))
    before = torch.get_rng_state()
    maps, compute = [], evaluate.localization_map
    monkeypatch.setattr(
        evaluate,
        "localization_map",
        lambda *given, **named: maps.append(compute(*given, **named)) or maps[-1],
    )
    result = measure_pointing(run, data, kind="cosine", seed=5, device="cpu")
    own, exchanged, untrained = maps
    assert torch.equal(own, untrained)
    assert not torch.equal(own, exchanged)
    assert result.score == result.untrained
    assert torch.equal(before, torch.get_rng_state())


def test_each_control_changes_what_it_says_and_nothing_else(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def stand_in(encoder: object, image: torch.Tensor, audio: torch.Tensor, *, kind: str) -> torch.Tensor:
        calls.append((encoder, image, audio))
        return torch.rand(len(image), 4, 4)

    monkeypatch.setattr(evaluate, "localization_map", stand_in)
    measure_pointing(run, data, device="cpu")
    (ours, image, own), (again, image_again, other), (random, same_image, same_sound) = calls
    assert ours is again and random is not ours
    assert image is same_image and image is image_again
    assert own is same_sound
    distance = (own[:, None] - other[None]).abs().amax(dim=(2, 3, 4))
    assert (distance.amin(dim=0) == 0).all()  # the same sounds, in another order
    assert (distance.diagonal() > 0.1).all()


def boxed(folder: Path, labels: Sequence[str], view: str = "") -> Path:
    """Prepared pictures with a sound and two boxes, one over the other."""
    folder.mkdir()
    rows = ["id,split,label,image,audio,boxes,view"]
    for k, label in enumerate(labels):
        picture = np.random.default_rng(k).integers(0, 255, (32, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f"{k}.png"), picture)
        soundfile.write(folder / f"{k}.wav", clips.tone(1.0, frequency=300 + 50 * k), clips.RATE)
        rows.append(f'{k},test,{label},{k}.png,{k}.wav,"[[0,0,0.5,0.5],[0,0,0.25,1]]","{view}"')
    (folder / "boxed.csv").write_text("\n".join(rows))
    return prepare("manifest", folder / "boxed.csv", out=folder / "prepared").out


@pytest.mark.parametrize("labels", [[""] * 5, ["cello;violin"] * 4 + ["flute;horn"], ["cat", "cat"]])
def test_boxes_without_labels_or_of_one_class_have_a_table(
    run: Path, tmp_path: Path, labels: list[str]
) -> None:
    data = boxed(tmp_path / "data", labels)
    tables = evaluation.evaluate(run, data, task="localize", maps=["cosine"], device="cpu")
    tables += evaluation.evaluate(
        run, data, task="localize", maps=["cosine"], protocols=["slavc-extended"], device="cpu"
    )
    for table in tables:
        assert table.rows[1].name == "cosine, another clip's sound" and table.rows[1].role == "control"
        assert "No row with another class's sound" in table.notes[0] and table.samples == len(labels)
    assert "with another clip's sound and with silence" in tables[-1].words
    result = measure_pointing(run, data, kind="cosine", device="cpu")
    assert list(result.controls())[1] == "another clip's sound"


def test_a_single_clip_with_boxes_has_a_table_without_another_sound(run: Path, tmp_path: Path) -> None:
    data = boxed(tmp_path / "data", ["cat"])
    table = evaluation.evaluate(run, data, task="localize", protocols=["pointing"], device="cpu")[0]
    assert not any("another" in row.name for row in table.rows)
    assert "nor with another clip's sound" in table.notes[0]
    with pytest.raises(UsageError, match="there is one alone"):
        evaluation.evaluate(
            run, data, task="localize", maps=["cosine"], protocols=["slavc-extended"], device="cpu"
        )
    with pytest.raises(DataError, match="a single clip of split test has boxes"):
        measure_pointing(run, data, device="cpu")


@pytest.mark.parametrize(("view", "least"), [("", 1.0), ('{""truth"": ""consensus""}', 0.5), ("[1]", 1.0)])
def test_the_stored_view_says_how_truth_is_made_of_boxes(tmp_path: Path, view: str, least: float) -> None:
    dataset = PreparedDataset(boxed(tmp_path / "flickr-soundnet", ["", ""], view), "test")
    truth = evaluate.truth_of(dataset, np.arange(2))[0]
    assert truth[0, 10, 10] == 1 and truth[0, 10, 100] == truth[0, 200, 10] == least


def test_data_without_boxes_is_refused(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = PreparedDataset.record
    bare = {"boxes": np.zeros((0, 4), np.float32)}
    monkeypatch.setattr(PreparedDataset, "record", lambda self, i: replace(record(self, i), **bare))
    with pytest.raises(DataError, match="no clip of split test has boxes"):
        measure_pointing(run, data, device="cpu")


def measured(score: float) -> PointingResult:
    shares = {"untrained": 0.2, "exchanged": 0.3, "disc": 0.25, "anywhere": 0.1}
    return PointingResult(
        "step-00000001", "attention", "synth", "test", clips=80, left_out=0, score=score, **shares
    )


def test_only_a_map_above_every_control_goes_without_a_warning() -> None:
    assert measured(0.3 + 0.06).warning() == ""
    warning = measured(0.3 + 0.04).warning()
    assert "34.0%" in warning and "another class's sound in 30.0%" in warning and "80 clips" in warning
    assert measured(0.1).warning()
    by_sight = replace(measured(0.4), objects=0.45).warning()
    assert "an object at random in 45.0%" in by_sight and replace(measured(0.6), objects=0.45).warning() == ""


def test_localize_takes_the_warning_of_the_checkpoint_and_the_kind_that_was_measured(
    data: Path, run: Path, tmp_path: Path
) -> None:
    assert keep_localization(run, measured(0.31)) == run / LOCALIZATION_JSON
    assert kept_localization(run, "attention") == measured(0.31)
    assert kept_localization(run / "checkpoints" / "step-00000001", "attention") == measured(0.31)
    assert kept_localization(run, "cosine") is None
    video = render(tmp_path, clips=1, seed=0).parent / "clips" / "synth-000000.mp4"
    out = run / "o.png"
    warned = localize(video, out=out, model=run)
    assert warned.warning == measured(0.31).warning()
    unmeasured = localize(video, out=out, model=run, map="cosine", force=True)
    assert unmeasured.warning == ""
    keep_localization(run, replace(measured(0.31), checkpoint="step-00000002"))
    assert kept_localization(run, "attention") is None
    for broken in ({"score": 1}, {**asdict(measured(0.31)), "score": None}):
        (run / LOCALIZATION_JSON).write_text(json.dumps(broken))
        with pytest.raises(DataError, match="broken"):
            kept_localization(run, "attention")
