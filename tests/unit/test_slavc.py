"""Protocol slavc-extended on prepared data: what the negatives are, whose maps a row takes, and what has no cosines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from avtool.checkpoint import load_model, save_checkpoint
from avtool.data.dataset import PreparedDataset
from avtool.data.views import EvaluationViews
from avtool.errors import UsageError
from avtool.evaluate import Table, evaluate
from avtool.features import inputs_of, silence
from avtool.metrics.localization import Exchange
from avtool.model.build import random_model
from avtool.tasks.context import Context
from avtool.tasks.localize.maps import localization_map
from avtool.tasks.localize.slavc import (
    EXCHANGED,
    SILENT,
    UNTRAINED_EXCHANGED,
    UNTRAINED_SILENT,
    Judged,
    slavc_table,
)
from avtool.tasks.table import UNTRAINED
from tests.models import described

SETTINGS = {
    "image_size": [32, 32], "audio_size": [32, 64], "patch_size": 16, "dim": 24, "depth": 2, "heads": 2,
    "fusion": "factorized", "fusion_tokens": [3, 2, 2], "encoding": "unimodal", "width": 8,
}  # fmt: skip
CONFIG = described("localization", SETTINGS, {"n_fft": 400})
SOUNDS = ("", EXCHANGED, SILENT, UNTRAINED, UNTRAINED_EXCHANGED, UNTRAINED_SILENT)


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "localizer"
    save_checkpoint(folder, model=random_model("localization", SETTINGS, seed=3), config=CONFIG)
    return folder


def table_of(maps: dict[str, np.ndarray], truth: np.ndarray) -> Table:
    context = Context(Path(), CONFIG, None, np.arange(len(truth)), torch.device("cpu"))  # type: ignore[arg-type]
    recordings = [str(clip) for clip in range(len(truth))]
    found = {("cosine", of): of_sound for of, of_sound in maps.items()}
    judged = Judged(np.arange(len(truth)), truth, recordings, {}, Exchange(None, EXCHANGED))
    return slavc_table(context, found, judged)


def values(table: Table) -> dict[str, tuple[float, ...]]:
    return {row.name: tuple(measure.value for measure in row.measures.values()) for row in table.rows}


def test_a_map_that_is_sure_of_its_own_sound_alone_finds_everything() -> None:
    """Four frames whose upper half sounds; three are shown where they do, one where it does not."""
    truth = np.zeros((4, 8, 8))
    truth[:, :4] = 1
    upper = truth * 2 - 1
    shown = np.concatenate([upper[:3], -upper[3:]])
    maps = dict.fromkeys(SOUNDS, shown * 0.1) | {"": shown * 0.9}
    found = values(table_of(maps, truth))
    # Of four equal confidences three are right: one threshold, precision 3/4 at recall 1.
    assert found["cosine"] == pytest.approx((75, 100 * 2 * 0.75 / 1.75, 75))
    # Sounds exchanged: the four come behind four negatives, level with four: precision 3/12 at recall 1.
    assert found[f"cosine, {EXCHANGED}"] == pytest.approx((25, 100 * 2 * 0.25 / 1.25, 75))
    assert found[f"cosine, {UNTRAINED}"] == pytest.approx((25, 40, 75))
    assert found["a centred disc"][0] < 100 / 3 + 1e-9
    assert found["the truth itself"] == pytest.approx((100, 100, 100))


def test_small_boxes_are_said_to_tell_nothing() -> None:
    truth = np.zeros((4, 8, 8))
    truth[:, :3, :5] = 1  # 15 of 64 pixels, of which 32 are predicted
    maps = dict.fromkeys(SOUNDS, truth)
    assert "tells nothing" in table_of(maps, truth).notes[0]
    truth[0, :4, :5] = 1
    assert not table_of(maps, truth).notes


def test_a_deaf_map_scores_as_well_with_somebody_elses_sound() -> None:
    generator = np.random.default_rng(0)
    truth = np.zeros((6, 8, 8))
    truth[:, :, :5] = 1
    maps = dict.fromkeys(SOUNDS, generator.uniform(-1, 1, (6, 2, 2)))
    found = values(table_of(maps, truth))
    assert found["cosine"] == found[f"cosine, {EXCHANGED}"]
    assert found["cosine"][0] < 50


def test_the_negatives_are_the_frame_with_silence_and_with_another_classs_sound(
    model: Path, data: Path, tmp_path: Path
) -> None:
    options = {"task": "localize", "maps": ["trained", "cosine"], "device": "cpu"}
    (table,) = evaluate(
        model, data, protocols=["slavc-extended"], save_predictions=tmp_path / "p.npz", **options
    )
    saved = np.load(tmp_path / "p.npz")
    module, log_mel, _ = load_model(model)
    views = EvaluationViews(
        PreparedDataset(data, "test"), image_size=(32, 32), window_samples=16000, whole=True
    )
    for number, clip in enumerate(saved["clips"]):
        sample = views.sample(int(clip))
        image, audio = inputs_of(
            log_mel, {name: torch.tensor(sample[name])[None] for name in ("image", "waveform")}
        )
        for kind in ("trained", "cosine"):
            own = saved[f"{kind}: model"][number]
            quiet = localization_map(module, image, silence(audio), kind=kind)[0].numpy()
            np.testing.assert_allclose(saved[f"{kind}: {SILENT}"][number], quiet, atol=1e-5)
            assert abs(own - quiet).max() > 1e-4
            assert abs(own - saved[f"{kind}: {EXCHANGED}"][number]).max() > 1e-4
    assert (table.samples, table.recordings) == (len(saved["clips"]), len(saved["clips"]))
    assert "with another class's sound and with silence" in table.words
    assert list(table.rows[0].measures) == ["AP", "max F1", "LocAcc"]
    # Other protocols of the same pass are as they are without it.
    alone = evaluate(model, data, protocols=["pointing"], **options)
    beside = evaluate(model, data, protocols=["slavc-extended", "pointing"], **options)
    assert beside == [table, *alone]
    assert "slavc-extended" not in [found.protocol for found in evaluate(model, data, **options)]


def test_maps_that_are_no_cosines_have_no_confidence(model: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="this model's attention map holds none") as told:
        evaluate(model, data, protocols=["slavc-extended"], maps=["trained", "attention"], device="cpu")
    assert told.value.hint == "--map trained,cosine"
