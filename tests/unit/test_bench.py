"""The benchmark: its reference is the model, its clock is fair, its bytes and operations are counted right."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from itertools import groupby
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from avtool.bench import data as bench_data
from avtool.bench import model as bench_model
from avtool.bench.measure import compare, interleave, peak_bytes, spread
from avtool.bench.model import (
    ATTENTION,
    BUILT,
    PUBLISHED_GFLOP_EQUIVALENTS,
    Setup,
    benchmark,
    built_pairs_in_words,
    fusion_suite,
    shared_models,
)
from avtool.bench.pairs import BuiltPairs, with_built_pairs
from avtool.cli import app
from avtool.config.recipes import load_recipe
from avtool.config.types import flat
from avtool.errors import DataError, RecipeError
from avtool.media import describe_container, write_clip
from avtool.model.fusion import FusionBlock, PairAttention
from avtool.model.mae import MaskedAutoencoder
from avtool.registry import FUSIONS
from avtool.speed import count_flops, matrix_product, seconds_of
from tests.clips import click, clip, level_frames, level_of, moving_frames, where_is_click

CPU = torch.device("cpu")
RESULT_KEYS = {
    "name",
    "seconds",
    "rounds",
    "gflop_equivalents",
    "gflop",
    "share_of_product_rate",
    "samples_per_second",
    "peak_bytes",
}


@pytest.fixture(autouse=True)
def _small_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_model, "PRODUCT_SIDE", 64)
    monkeypatch.setattr("avtool.speed.MIN_SECONDS", 0.0)


def bench(line: str, *, args: list[str] | None = None, **options):
    return CliRunner().invoke(app, ["bench", *line.split(), *(args or [])], **options)


def gradients(module, tensors, parameters):
    out = module(*tensors)
    return [out, *torch.autograd.grad(out.square().sum(), [*tensors, *parameters])]


@pytest.mark.parametrize("kind", ["dense", "factorized", "bilinear"])
def test_a_block_with_built_pairs_equals_the_block(kind: str) -> None:
    torch.manual_seed(0)
    block = FusionBlock(24, kind=kind, heads=3, tokens=(4, 2, 3), attn_ratio=0.5, mlp_ratio=1.0).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    twin = with_built_pairs(block)
    assert [type(module) for module in twin.modules()].count(BuiltPairs) == 1
    assert not any(isinstance(module, BuiltPairs) for module in block.modules())
    tensors = [torch.randn(2, count, 24, dtype=torch.double, requires_grad=True) for count in (9, 7, 5)]
    ours = gradients(block, tensors, block.parameters())
    theirs = gradients(twin, tensors, twin.parameters())
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_the_reference_attends_to_every_pair() -> None:
    torch.manual_seed(0)
    module = PairAttention(4, heads=1, attn_ratio=1.0, value_width=4).double()
    x, image, audio = (torch.randn(1, count, 4, dtype=torch.double) for count in (1, 2, 3))
    pairs = [torch.cat([v, a]) for v in image[0] for a in audio[0]]
    keys = [module.k.weight @ pair + module.k.bias for pair in pairs]
    values = [module.v.weight @ pair + module.v.bias for pair in pairs]
    weights = [math.exp(module.scale * (module.q(x)[0, 0] @ key).item()) for key in keys]
    want = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
    torch.testing.assert_close(BuiltPairs(module)(x, image, audio)[0, 0], module.proj(want))


def test_passes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("avtool.bench.measure.say", lambda line: calls.append(f"({line})"))
    measures = {name: seconds_of(lambda name=name: calls.append(name), CPU) for name in "ABC"}
    times = interleave(measures, 3)
    turns = [name for name, _ in groupby(calls)]
    assert "".join(turns) == "(warm-up)ABC(round 1 of 3)ABC(round 2 of 3)ABC(round 3 of 3)ABC"
    assert {name: len(seconds) for name, seconds in times.items()} == {"A": 3, "B": 3, "C": 3}


def test_short_passes_are_repeated_and_timed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("avtool.speed.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("avtool.speed.MIN_SECONDS", 1.0)
    calls = {"short": 0, "long": 0}

    def take(name: str, seconds: float) -> None:
        calls[name] += 1
        clock[0] += seconds

    lengths = {"short": 0.25, "long": 3.0}
    measures = {name: seconds_of(partial(take, name, length), CPU) for name, length in lengths.items()}
    assert interleave(measures, 2) == {"short": [0.25, 0.25], "long": [3.0, 3.0]}
    assert calls == {"short": 2 + 2 * 4, "long": 2 + 2}


def test_peak_of_operations_whose_bytes_are_known() -> None:
    x = torch.zeros(1000)
    assert peak_bytes(x.neg, CPU) == 4000
    assert peak_bytes(lambda: x.neg().neg().neg(), CPU) == 8000  # two at a time, the first is gone by then
    assert peak_bytes(x.neg_, CPU) == 0
    weight = torch.ones(1000, requires_grad=True)

    def backward() -> None:
        (
            weight * x
        ).sum().backward()  # product and sum, gone; then the sum's gradient, and weight's beside it
        weight.grad = None

    assert 4000 <= peak_bytes(backward, CPU) <= 8100
    assert peak_bytes(lambda: torch.einsum("i,j->ij", x, x), CPU) == 4_000_000


def test_operations_of_a_product_are_counted() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(3, 5)
    assert count_flops(lambda: a @ b) == 2 * 2 * 3 * 5


def test_spread_of_one_and_of_many() -> None:
    assert spread([3.0]) == {"median": 3.0, "q1": 3.0, "q3": 3.0}
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}


@pytest.mark.parametrize("measured", ["seconds", "rate"])
def test_ratios_are_taken_round_by_round(measured: str) -> None:
    over, under = (
        {"name": "dense", "rounds": [10.0, 40.0, 90.0]},
        {"name": "token", "rounds": [10.0, 20.0, 30.0]},
    )
    spread = {"median": 2.0, "q1": 1.5, "q3": 2.5}
    assert compare(over, under, measured) == {"over": "dense", "under": "token", measured: spread}


@pytest.mark.parametrize(
    ("share", "change", "unfair"),
    [
        (1.0, {}, False),
        (0.71, {}, False),
        (1.29, {}, False),
        (0.69, {}, True),
        (1.31, {}, True),
        (0.5, {"batch": 8}, False),
        (0.5, {"precision": "bf16"}, False),
        (0.5, {"size": "tiny"}, False),
        (0.5, {"attn_ratio": 1.0}, False),
        (0.5, {"compile": True}, False),
    ],
)
def test_a_reference_far_from_the_published_time_is_told(share: float, change: dict, unfair: bool) -> None:
    taken, published = share * PUBLISHED_GFLOP_EQUIVALENTS, Setup("fusion", fusions=["dense"], rounds=3)
    said = built_pairs_in_words(taken, replace(published, **change))
    assert said.startswith(
        f"dense attention with built pairs: {share * 560:,.0f} GFLOP-equivalents, published 560 "
    )
    assert ("ratios to built pairs do not count" in said) == unfair
    elsewhere = replace(published, device=torch.device("cuda"))
    assert "do not count" not in built_pairs_in_words(taken, elsewhere)


def test_built_pairs_cost_what_arithmetic_says() -> None:
    setup = Setup("fusion", size="tiny", batch=2)
    recipe = load_recipe("tiny", ["model.fusion.kind=dense"])
    passes, _ = fusion_suite({"dense": recipe}, setup)
    settings = flat(recipe.model)
    dim, width, tokens, (image, audio) = 192, 48, sum(settings["fusion_tokens"]), (64, 48)
    pairs = 2 * image * audio
    attention = 2 * tokens * width * image * audio * 2  # logits and output, for a batch of 2
    multiplications = pairs * 2 * dim * 2 * width + 2 * tokens * dim * width * 2 + attention
    # forward once, backward to both factors of each product: three products for one
    assert count_flops(passes[ATTENTION + BUILT]) == 3 * 2 * multiplications
    assert count_flops(passes[ATTENTION]) < count_flops(passes[ATTENTION + BUILT]) / 10


def test_models_share_everything_but_fusion_blocks() -> None:
    recipes = {kind: load_recipe("tiny", [f"model.fusion.kind={kind}"]) for kind in ("token", "dense")}
    models = shared_models(recipes, CPU)
    token, dense = (dict(model.named_parameters()) for model in models.values())
    assert {name for name in token if name in dense and token[name] is dense[name]} == {
        name for name in token if "fusion_blocks" not in name
    }
    for model in models.values():
        assert isinstance(model, MaskedAutoencoder)
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_product_is_in_the_run_s_precision() -> None:
    assert matrix_product(8, CPU, torch.bfloat16)().dtype == torch.bfloat16


@pytest.mark.parametrize(("what", "precision"), [("fusion", "float32"), ("step", "bf16")])
def test_json_has_every_figure(
    what: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "step":  # twelve passes of a whole model, in a precision that not every CPU has
        (tmp_path / "small.yaml").write_text(SMALL)
        monkeypatch.setitem(bench_model.SIZES, "tiny", str(tmp_path / "small.yaml"))
    done = bench(f"{what} --size tiny --batch 2 --rounds 2 --device cpu --precision {precision} --json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) == {
        "avtool",
        "date",
        "machine",
        "settings",
        "product",
        "results",
        "ratios",
        "reference",
    }
    assert set(found["machine"]) == {
        "cpu",
        "cores",
        "threads",
        "device",
        "accelerator",
        "torch",
        "python",
        "load",
    }
    assert found["settings"] == {
        "benchmark": what,
        "size": "tiny",
        "fusions": list(FUSIONS),
        "batch": 2,
        "precision": precision,
        "attn_ratio": 0.25,
        "compile": False,
        "rounds": 2,
        "product_side": 64,
    }
    rate = found["product"]["gflop_per_second"]
    assert rate == pytest.approx(2 * 64**3 / found["product"]["seconds"]["median"] / 1e9)
    for result in found["results"]:
        assert set(result) == RESULT_KEYS
        assert len(result["rounds"]) == 2
        median = result["seconds"]["median"]
        assert median == pytest.approx(sum(result["rounds"]) / 2)
        assert result["gflop_equivalents"] == pytest.approx(median * rate)
        assert result["samples_per_second"] == pytest.approx(2 / median)
        assert result["gflop"] > 0
        assert result["peak_bytes"] > 0
    peaks = {result["name"]: result["peak_bytes"] for result in found["results"]}
    assert {(ratio["over"], ratio["under"]) for ratio in found["ratios"]} == EXPECTED[what]
    assert (found["reference"] is not None) == (what == "fusion")
    for ratio in found["ratios"]:
        assert ratio["peak_bytes"] == pytest.approx(peaks[ratio["over"]] / peaks[ratio["under"]])
        if ratio["over"] == "dense" + BUILT:
            assert ratio["peak_bytes"] > 5


SMALL = """
extends: tiny
model: {image_size: [64, 64], audio_size: [64, 64], dim: 48, depth: 2, decoder: {dim: 48, depth: 1}}
"""
EXPECTED = {
    "fusion": {
        ("factorized", "token"),
        ("dense", "token"),
        ("bilinear", "token"),
        ("bilinear", "dense"),
        ("bilinear" + BUILT, "bilinear"),
        ("factorized" + BUILT, "factorized"),
        ("dense" + BUILT, "dense"),
        (ATTENTION + BUILT, ATTENTION),
    },
    "step": {
        (f"{fusion}, {kind}", f"token, {kind}")
        for fusion in ("dense", "factorized", "bilinear")
        for kind in ("masked step", "unmasked encoder")
    },
}


def test_table_fits_80_columns_and_shows_every_pass() -> None:
    done = bench("fusion --size tiny --batch 1 --rounds 1 --device cpu --fusion dense --fusion token")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    starts = [line.split("  ")[0] for line in lines]
    for name in ("token", "dense", "dense" + BUILT, "dense : token", "dense" + BUILT + " : not"):
        assert name in starts
    assert "factorized" not in done.stdout


def test_attn_ratio_and_size_reach_the_model() -> None:
    small, wide = (
        benchmark(Setup("fusion", size="tiny", fusions=["dense"], batch=1, rounds=1, attn_ratio=ratio))
        for ratio in (0.25, 1.0)
    )
    assert wide["settings"]["attn_ratio"] == 1.0
    assert wide["results"][0]["gflop"] > 2 * small["results"][0]["gflop"]
    with pytest.raises(RecipeError, match=r"not divisible by model\.heads 3"):
        benchmark(Setup("fusion", size="tiny", attn_ratio=0.3))
    done = bench("fusion --size tiny --device cuda:77")
    assert done.exit_code == 2
    assert "device cuda:77 is not there" in done.stderr


def test_too_little_memory_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(recipes, setup):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setitem(bench_model.SUITES, "step", refuse)
    done = bench("step --size tiny --batch 64 --device cpu")
    assert done.exit_code == 1
    assert "cpu has too little memory for a batch of 64" in done.stderr
    assert "--batch 32" in done.stderr


@pytest.mark.parametrize("what", ["", "fusion", "step", "data"])
def test_help_fits_80_columns_and_ends_in_examples(what: str) -> None:
    done = bench(f"{what} --help", env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.index("Examples:") < done.stdout.index("Next:")


@pytest.mark.parametrize(
    "args",
    [
        "",
        "other",
        "fusion --batch 0",
        "fusion --device tpu",
        "step --fusion late",
        "fusion --size huge",
        "fusion --precision int8",
        "step clips",
        "data --precision bf16",
        "data --rounds 0",
    ],
)
def test_wrong_words_are_usage_errors(args: str) -> None:
    assert bench(args).exit_code == 2


def test_a_new_kind_of_fusion_is_benched_and_a_wrong_one_hears_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setitem(FUSIONS._places, "late", FUSIONS["token"])
    monkeypatch.setattr(bench_model, "benchmark", lambda setup: asked.append(setup.fusions) or {})
    assert bench("fusion --json").exit_code == bench("step --fusion late --json").exit_code == 0
    assert asked == [tuple(FUSIONS), ["late"]]
    monkeypatch.undo()
    done = bench("fusion --fusion factorised")
    assert done.exit_code == 2
    assert "--fusion factorised is not known" in done.stderr
    assert "did you mean factorized? there are token, dense, factorized, bilinear" in done.stderr


# Data ------------------------------------------------------------------------------------------------


class Drawn:
    """A generator whose draws between 0 and 1 are given; crops are of the whole frame."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def random(self, size: int | None = None):
        return self.values.pop(0) if size is None else np.zeros(size)

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        return np.full(size, min(high, 1.0) if low > 0 else 0.0)


@pytest.fixture(scope="module")
def own_server() -> None:
    """What other tests have started is no server of workers that has imported torch."""
    forkserver._forkserver._stop()


@pytest.fixture
def quick(own_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_data, "SECONDS", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, one of which has no sound, in two folders."""
    root = tmp_path_factory.mktemp("clips")
    clip(root / "b" / "-x, y.mp4", 5.0, size=(64, 64), seed=1)
    clip(root / "a" / "two.mp4", 4.0, size=(96, 64), seed=2)
    write_clip(root / "a" / "mute.mp4", moving_frames(10), fps=5, waveform=None, sample_rate=16000)
    (root / "a" / "notes.txt").write_text("no clip")
    return root


def test_a_sample_from_mp4_is_a_frame_and_three_seconds_of_sound(tmp_path: Path) -> None:
    path = tmp_path / "click.mp4"
    sound = click(9.0, 6.0, rate=44100)
    write_clip(path, level_frames(45, 160, 128), fps=5, waveform=sound, sample_rate=44100)
    sample = bench_data.decode_sample(path, Drawn(0.75, 0.5, 1.0))  # a window from 4.5 s of 9 s
    assert sample["image"].shape == (3, 224, 224)
    assert sample["image"].dtype == np.uint8
    assert level_of(sample["image"]) == 0  # the only key frame, as common loaders have it
    assert sample["waveform"].shape == (48000,)
    assert sample["waveform"].dtype == np.int16
    assert where_is_click(sample["waveform"]) == pytest.approx(1.5, abs=0.05)


def test_the_same_clips_are_on_both_sides_in_one_order(folder: Path, tmp_path: Path) -> None:
    dataset, videos = bench_data._both(folder, tmp_path, clips=10, seed=0)
    assert [path.name for path in videos] == ["two.mp4", "-x, y.mp4"]  # the mute one is refused
    for i, path in enumerate(videos):
        assert dataset.facts(i)["duration"] == pytest.approx(describe_container(path)["duration"], abs=0.2)
    bench_data._list_clips(folder, tmp_path / "two.csv", 2)
    assert len((tmp_path / "two.csv").read_text().splitlines()) == 1 + 2
    (tmp_path / "mute").mkdir()
    shutil.copy(folder / "a" / "mute.mp4", tmp_path / "mute")
    with pytest.raises(DataError, match=r"can be prepared: no sound track"):
        bench_data._both(tmp_path / "mute", tmp_path / "mute", clips=1, seed=0)


def test_without_a_source_clips_are_rendered_as_files(tmp_path: Path) -> None:
    dataset, videos = bench_data._both(None, tmp_path, clips=2, seed=0)
    assert [path.stem for path in videos] == [dataset.record(i).id for i in range(2)]
    assert all(path.suffix == ".mp4" and path.is_file() for path in videos)


@pytest.mark.parametrize(("name", "said"), [("nowhere", "is not a folder"), ("", "holds no clip")])
def test_a_source_without_clips_is_told(name: str, said: str, tmp_path: Path) -> None:
    done = bench("data", args=[str(tmp_path / name)])
    assert done.exit_code == 1
    assert said in done.stderr


def test_a_clip_that_common_loaders_cannot_read_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "mute.mp4", moving_frames(10), fps=5, waveform=None, sample_rate=16000)
    with pytest.raises(DataError, match=r"mute\.mp4 cannot be read"):
        bench_data._check_all([tmp_path / "mute.mp4"])


def test_rates_are_of_cpu_time_and_of_whole_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"cpu": 0.0, "wall": 0.0}
    monkeypatch.setattr("avtool.bench.data.time.process_time", lambda: clock["cpu"])
    monkeypatch.setattr("avtool.bench.data.time.perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(bench_data, "SECONDS", 2.0)
    closed = []

    def batches():
        """In bursts of three, as three workers give them; the first pays for what is opened and started."""
        try:
            clock["cpu"] += 50.0
            clock["wall"] += 50.0
            while True:
                yield from ({} for _ in range(3))
                clock["cpu"] += 1.5
                clock["wall"] += 0.75
        finally:
            closed.append(True)

    assert bench_data.rate_of(lambda workers: batches(), 0, 8) == 16.0
    del closed[:]
    assert bench_data.rate_of(lambda workers: batches(), 3, 8) == 32.0
    assert closed == [True]  # which is how worker processes end


@pytest.mark.parametrize(
    ("rate", "seconds", "size", "unfair"),
    [
        (35.0, 10.0, [480, 360], False),
        (60.0, 10.0, [320, 240], False),
        (34.9, 10.0, [480, 360], True),
        (34.9, 4.0, [480, 360], False),
        (20.0, 10.0, [160, 160], False),
    ],
)
def test_an_mp4_side_slower_than_the_published_one_is_told(
    rate: float, seconds: float, size: list[float], unfair: bool
) -> None:
    said = bench_data.mp4_in_words(rate, {"median_seconds": seconds, "median_size": size})
    assert said.startswith(f"mp4: {rate} samples a core-second; the published loader has at least 35 on ")
    assert ("ratios to mp4 do not count" in said) == unfair


def test_both_sides_are_measured_by_turns(quick, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    real = bench_data._sides

    def watched(*args):
        def told(name, measure):
            return lambda: (turns.append(name), measure())[1]

        return {name: told(name, measure) for name, measure in real(*args).items()}

    monkeypatch.setattr(bench_data, "_sides", watched)
    done = bench("data --clips 3 --batch 2 --rounds 2 --seed 1 --json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = [f"{way}, {how}" for way in ("mp4", "prepared") for how in ("a core", "1 worker", "2 workers")]
    assert turns == names * 3  # the first time to warm up
    assert [result["name"] for result in found["results"]] == names
    assert set(found) == {"avtool", "date", "machine", "settings", "clips", "results", "ratios", "reference"}
    assert found["settings"] == {"benchmark": "data", "batch": 2, "rounds": 2, "seed": 1}
    assert found["clips"]["count"] == 3
    assert (found["clips"]["median_seconds"], found["clips"]["median_size"]) == (4.0, [160.0, 160.0])
    for result in found["results"]:
        assert len(result["rounds"]) == 2
        assert result["rate"]["median"] == pytest.approx(sum(result["rounds"]) / 2)
        assert result["rate"]["median"] > 0
    rounds = {result["name"]: result["rounds"] for result in found["results"]}
    assert [(ratio["over"], ratio["under"]) for ratio in found["ratios"]] == bench_data.COMPARED
    for ratio in found["ratios"]:
        each = [a / b for a, b in zip(rounds[ratio["over"]], rounds[ratio["under"]], strict=True)]
        assert ratio["rate"]["median"] == pytest.approx(sum(each) / 2)
    assert "samples a core-second" in found["reference"] and "do not count" not in found["reference"]


def test_the_data_table_fits_80_columns(quick, folder: Path) -> None:
    assert "[default: 32; x>=1]" in bench("data --help").stdout
    done = bench("data --rounds 1 --batch 4", args=[str(folder)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    for words in (
        "batch 4",
        "2 clips, median",
        "prepared, a core : mp4, a core",
        "mp4, 2 workers",
        "the published loader",
    ):
        assert words in done.stdout
