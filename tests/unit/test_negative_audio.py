"""Protocol negative-audio: the known values of its floors and of an oracle, which sounds are heard, and on which clips
the threshold is chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from avtool.checkpoint import load_model
from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.views import EvaluationViews, NegativeViews
from avtool.engine.start import Clips
from avtool.errors import DataError, NotFinite
from avtool.evaluate import Table, evaluate
from avtool.features import LogMel, inputs_of, silence
from avtool.inputs import white_noise
from avtool.metrics.localization import centred_disc
from avtool.metrics.negatives import balanced_threshold, separation_auc
from avtool.tasks.context import Context
from avtool.tasks.localize.maps import localization_map
from avtool.tasks.negatives import Samples, _other_sounds, negative_table, validation_clips
from tests.models import UNTRAINED, described, untrained_models

OTHERS = ("silence", "noise", "another class's sound", "off-screen sound")


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return untrained_models(tmp_path_factory.mktemp("models"))


def samples_of(dataset: PreparedDataset) -> Samples:
    numbers = np.arange(len(dataset))
    views = EvaluationViews(dataset, image_size=(32, 32), window_samples=16000, whole=True)
    return Samples(dataset, views, numbers, numbers)


def table_of(data: Path, maps: Callable[[LogMel, list[tuple[Tensor, Tensor]]], Callable]) -> Table:
    """The table of what ``maps`` makes of the spectrogram and every frame of the data with its own sound."""
    kind, settings = UNTRAINED["localize"]
    log_mel = LogMel(n_fft=400, mels=32)
    test, train = (samples_of(PreparedDataset(data, split)) for split in ("test", "train"))
    pairs = []
    for samples in (test, train):
        for i in samples.numbers:
            view = samples.views.sample(int(i))
            one = {name: torch.tensor(view[name])[None] for name in ("image", "waveform")}
            pairs.append(inputs_of(log_mel, one))
    context = Context(
        Path(), described(kind, settings), test.dataset, test.numbers, torch.device("cpu"), batch_size=3
    )
    truth = np.linspace(0.1, 0.4, len(test.numbers))
    (table,) = negative_table(
        context,
        maps(log_mel, pairs),
        log_mel,
        test,
        train,
        which="all",
        task="localize",
        truth=truth,
        left_out={},
    )
    return table


def values(table: Table) -> dict[str, tuple[float, ...]]:
    return {row.name: tuple(measure.value for measure in row.measures.values()) for row in table.rows}


def test_an_oracle_separates_all_and_blind_maps_nothing(data: Path) -> None:
    """What marks a frame only with its own sound is right by AUC and share; blind maps are at 50 % with every sound."""
    disc = torch.from_numpy(centred_disc((8, 8)))

    def maps(log_mel: LogMel, pairs: list[tuple[Tensor, Tensor]]) -> Callable:
        def compute(image: Tensor, audio: Tensor) -> dict[str, Tensor]:
            belongs = torch.tensor(
                [
                    any(
                        torch.equal(frame, seen[0]) and torch.allclose(sound, heard[0])
                        for seen, heard in pairs
                    )
                    for frame, sound in zip(image, audio, strict=True)
                ]
            )
            upper = torch.zeros(8, 8)
            upper[:4] = 1
            return {
                "oracle": upper * belongs[:, None, None].float(),
                "disc": disc.expand(len(image), 8, 8),
                "constant": torch.full((len(image), 8, 8), 0.3),
            }

        return compute

    found = values(table_of(data, maps))
    assert found["oracle, own sound"] == (pytest.approx(50, abs=0.5),)
    for sound in OTHERS:
        assert found[f"oracle, {sound}"] == (0, 100)
        assert found[f"constant, {sound}"] == (100, 50)
        assert found[f"disc, {sound}"] == (*found["disc, own sound"], 50)
    assert found["a centred disc, any sound"] == (pytest.approx(100 * np.pi / 16, abs=0.2), 50)
    assert found["a constant map, any sound"] == (100, 50)
    assert found["the truth itself, own sound"] == (pytest.approx(25),)
    assert found["the truth itself, any other sound"] == (0, 100)


def test_the_threshold_lies_between_own_sounds_and_others_and_every_kind_weighs_the_same() -> None:
    own = np.array([3.0, 4.0])
    assert balanced_threshold(own, [np.array([1.0, 2.0]), np.array([np.nan, 0.0])]) == 2.5
    # One negative of a kind of its own outweighs one of two own sounds, as each of 50 of another kind does not.
    assert balanced_threshold(own, [np.array([3.5]), np.array([1.0])]) == 2
    assert balanced_threshold(own, [np.array([3.5, 3.6, 3.7, 3.8]), np.array([1.0])]) == 2
    assert balanced_threshold(own, [np.r_[3.5, [3.4] * 50]]) == pytest.approx(3.75)
    # A deaf map's scores are the same with all sounds: any threshold is as good, the lowest is taken.
    assert balanced_threshold(own, [own, own[::-1]]) == 3
    assert separation_auc(own, np.array([3.0, 1.0])) == (0.5 + 3) / 4


def test_a_map_without_a_number_is_refused(data: Path) -> None:
    def maps(log_mel: LogMel, pairs: list[tuple[Tensor, Tensor]]) -> Callable:
        return lambda image, audio: {"broken": torch.full((len(image), 2, 2), float("nan"))}

    with pytest.raises(NotFinite):
        table_of(data, maps)


def test_noise_is_white_as_loud_as_the_clip_and_the_same_every_time(data: Path) -> None:
    generator = np.random.default_rng(0)
    tone = (8000 * np.sin(np.arange(16000) / 5)).astype(np.int16)
    noise = white_noise(tone, generator).astype(float)
    assert noise.std() == pytest.approx(8000 / 2**0.5, rel=0.03) and abs(noise.mean()) < 150
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert power[:4000].mean() == pytest.approx(power[4000:].mean(), rel=0.1)
    assert not white_noise(np.zeros(9, np.int16), generator).any()
    samples = samples_of(PreparedDataset(data, "test"))
    views = NegativeViews(samples.views, samples.numbers, samples.numbers[::-1, None], seed=5)
    first, again = (
        views.sample(1),
        NegativeViews(samples.views, samples.numbers[1:], np.zeros((3, 0), int), 5),
    )
    np.testing.assert_array_equal(first["other_waveform"][0], again.sample(0)["other_waveform"][0])
    assert (first["other_waveform"][0] != views.sample(2)["other_waveform"][0]).any()
    np.testing.assert_array_equal(first["other_waveform"][1], samples.views.sample(2)["waveform"])


def test_what_sounds_off_the_screen_is_not_in_view(data: Path) -> None:
    samples = samples_of(PreparedDataset(data, "train"))
    others, notes = _other_sounds(samples, seed=0)
    assert list(others) == list(OTHERS[2:])
    dataset, silent = samples.dataset, 0
    for i, other in enumerate(others["off-screen sound"]):
        seen = {thing["kind"] for thing in dataset.facts(i)["view"]}
        assert not seen & set(dataset.record(int(other)).labels)
        silent += bool(seen & set(dataset.record(int(others["another class's sound"][i])).labels))
    assert silent and any(f"{silent} frames show an object" in note for note in notes)


def test_data_that_do_not_say_what_is_in_view_have_no_sound_off_the_screen(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of(PreparedDataset(data, "test"))
    facts = samples.dataset.facts
    monkeypatch.setattr(samples.dataset, "facts", lambda i: {**facts(i), "view": [1, 2]})
    others, notes = _other_sounds(samples, seed=0)
    assert "off-screen sound" not in others and "do not say what is in view" in notes[-1]


@pytest.mark.parametrize("task", ["localize", "segment"])
def test_the_threshold_of_a_model_is_chosen_on_other_clips(
    model: Callable[[str], Path], data: Path, tmp_path: Path, task: str
) -> None:
    options = {"protocols": ["negative-audio"], "device": "cpu"}
    (table,) = evaluate(model(task), data, save_predictions=tmp_path / "p.npz", **options)
    saved = np.load(tmp_path / "p.npz")
    kind = {"localize": "trained", "segment": "model"}[task]
    assert list(values(table))[:5] == [f"{kind}, {sound}" for sound in ("own sound", *OTHERS)]
    assert "on 16 samples of split train" in table.words
    assert (table.task, table.samples, len(saved["negative-audio clips"])) == (task, 4, 4)
    assert table.rows[1].measures["marked"].value == pytest.approx(
        100 * saved[f"marked: {kind}, silence"].mean()
    )
    beside = evaluate(model(task), data, protocols=["negative-audio", *OTHER_PROTOCOLS[task]], device="cpu")
    assert beside[-1] == table and len(beside) > 1
    assert "negative-audio" not in [found.protocol for found in evaluate(model(task), data, device="cpu")]
    with pytest.raises(DataError, match="no clips to choose a threshold on"):
        evaluate(model(task), data, split="all", **options)
    (folded,) = evaluate(model(task), data, split="all", fold=(1, 2), **options)
    assert folded.samples < 20 and "split all" in folded.words


OTHER_PROTOCOLS = {"localize": ["pointing"], "segment": ["avs-tpavi"]}


def test_scores_are_the_highest_places_of_the_models_own_maps(
    model: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    evaluate(
        model("localize"),
        data,
        protocols=["negative-audio"],
        save_predictions=tmp_path / "p.npz",
        device="cpu",
    )
    saved = np.load(tmp_path / "p.npz")
    module, log_mel, _ = load_model(model("localize"))
    samples = samples_of(PreparedDataset(data, "test"))
    for place, clip in enumerate(saved["negative-audio clips"]):
        view = samples.views.sample(int(clip))
        image, audio = inputs_of(
            log_mel, {name: torch.tensor(view[name])[None] for name in ("image", "waveform")}
        )
        for sound, heard in (("own sound", audio), ("silence", silence(audio))):
            top = localization_map(module, image, heard, kind="trained").max().item()
            assert saved[f"maximum: trained, {sound}"][place] == pytest.approx(top, abs=1e-5)


def test_the_threshold_is_chosen_on_the_clips_that_fine_tuning_holds_out(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, settings = UNTRAINED["localize"]
    dataset = PreparedDataset(data, "test")
    context = Context(Path(), described(kind, settings), dataset, np.arange(4), torch.device("cpu"))
    _, everything, which = validation_clips(context)
    assert len(everything) == 16 and "too few recordings" in which
    monkeypatch.setattr(PreparedDataset, "label_id", lambda self, i: 0)  # 16 recordings of one class
    other, clips, which = validation_clips(context)
    recipe = load_recipe("tiny-localize", ["train.batch_size=2"])
    held_out = Clips.of(recipe, PreparedDataset(data, "train")).held_out
    assert (other.split, len(clips)) == ("train", 2) and "10%" in which
    np.testing.assert_array_equal(clips, held_out)
