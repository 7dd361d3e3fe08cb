"""The benchmark: its reference is the model, its clock is fair, its bytes and operations are counted right."""

from __future__ import annotations

import json
import math
from itertools import groupby

import pytest
import torch
from typer.testing import CliRunner

from avtool.bench import run as bench_run
from avtool.bench.measure import count_flops, interleave, peak_bytes, spread
from avtool.bench.pairs import BuiltPairs, built_pair_attention, with_built_pairs
from avtool.bench.passes import ATTENTION, BUILT, Setup, fusion_suite, matrix_product, shared_models
from avtool.bench.run import PUBLISHED_AT, PUBLISHED_GFLOP_EQUIVALENTS, benchmark, built_pairs_check, compare
from avtool.cli import app
from avtool.config.recipes import load_recipe
from avtool.errors import RecipeError, UsageError
from avtool.model.fusion import FusionBlock, PairAttention
from avtool.model.mae import MaskedAutoencoder
from avtool.tasks.pretrain import model_settings

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
    monkeypatch.setattr(bench_run, "PRODUCT_SIDE", 64)
    monkeypatch.setattr("avtool.bench.measure.MIN_SECONDS", 0.0)


def bench(line: str, **options):
    return CliRunner().invoke(app, ["bench", *line.split()], **options)


def gradients(module, tensors, parameters):
    out = module(*tensors)
    return [out, *torch.autograd.grad(out.square().sum(), [*tensors, *parameters])]


@pytest.mark.parametrize("kind", ["dense", "factorized"])
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
    torch.testing.assert_close(built_pair_attention(module, x, image, audio)[0, 0], module.proj(want))


def test_passes_take_turns() -> None:
    calls: list[str] = []
    passes = {name: lambda name=name: calls.append(name) for name in "ABC"}
    times = interleave(passes, rounds=3, device=CPU, on_round=lambda number: calls.append(str(number)))
    turns = [name for name, _ in groupby(calls)]
    assert "".join(turns) == "0ABC1ABC2ABC3ABC"
    assert {name: len(seconds) for name, seconds in times.items()} == {"A": 3, "B": 3, "C": 3}


def test_short_passes_are_repeated_and_timed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("avtool.bench.measure.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("avtool.bench.measure.MIN_SECONDS", 1.0)
    calls = {"short": 0, "long": 0}

    def take(name: str, seconds: float) -> None:
        calls[name] += 1
        clock[0] += seconds

    passes = {"short": lambda: take("short", 0.25), "long": lambda: take("long", 3.0)}
    assert interleave(passes, rounds=2, device=CPU) == {"short": [0.25, 0.25], "long": [3.0, 3.0]}
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


def test_ratios_are_taken_round_by_round() -> None:
    over = {"name": "dense" + BUILT, "rounds": [10.0, 40.0, 90.0], "peak_bytes": 80}
    under = {"name": "dense", "rounds": [10.0, 20.0, 30.0], "peak_bytes": 20}
    ratio = compare(over, under, {"verdict": "void"})
    assert ratio["seconds"] == {"median": 2.0, "q1": 1.5, "q3": 2.5}
    assert ratio["peak_bytes"] == 4
    assert ratio["void"]
    assert not compare(over, under, {"verdict": "honest"})["void"]
    assert not compare({**over, "name": "token"}, under, {"verdict": "void"})["void"]


@pytest.mark.parametrize(
    ("share", "change", "verdict"),
    [
        (1.0, {}, "honest"),
        (0.71, {}, "honest"),
        (1.29, {}, "honest"),
        (0.69, {}, "void"),
        (1.31, {}, "void"),
        (1.0, {"batch": 8}, "unchecked"),
        (1.0, {"precision": "bf16"}, "unchecked"),
    ],
)
def test_the_reference_is_honest_near_the_published_time_only(
    share: float, change: dict, verdict: str
) -> None:
    result = {"gflop_equivalents": share * PUBLISHED_GFLOP_EQUIVALENTS}
    assert built_pairs_check(result, {**PUBLISHED_AT, **change}, CPU)["verdict"] == verdict
    assert built_pairs_check(result, PUBLISHED_AT, torch.device("cuda"))["verdict"] == "unchecked"


def test_built_pairs_cost_what_arithmetic_says() -> None:
    setup = Setup(batch=2, device=CPU, precision=torch.float32, compile=False)
    recipe = load_recipe("tiny", ["model.fusion.kind=dense"])
    suite = fusion_suite({"dense": recipe}, setup)
    settings = model_settings(recipe)
    dim, width, tokens, (image, audio) = 192, 48, sum(settings["fusion_tokens"]), (16, 48)
    pairs = 2 * image * audio
    attention = 2 * tokens * width * image * audio * 2  # logits and output, for a batch of 2
    multiplications = pairs * 2 * dim * 2 * width + 2 * tokens * dim * width * 2 + attention
    # forward once, backward to both factors of each product: three products for one
    assert count_flops(suite.passes[ATTENTION + BUILT]) == 3 * 2 * multiplications
    assert count_flops(suite.passes[ATTENTION]) < count_flops(suite.passes[ATTENTION + BUILT]) / 10


def test_models_share_everything_but_fusion_blocks() -> None:
    recipes = {kind: load_recipe("tiny", [f"model.fusion.kind={kind}"]) for kind in ("token", "dense")}
    models = shared_models({kind: model_settings(recipe) for kind, recipe in recipes.items()}, CPU)
    token, dense = (dict(model.named_parameters()) for model in models.values())
    assert {name for name in token if name in dense and token[name] is dense[name]} == {
        name for name in token if "fusion_blocks" not in name
    }
    for model in models.values():
        assert isinstance(model, MaskedAutoencoder)
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_product_is_in_the_run_s_precision() -> None:
    setup = Setup(batch=1, device=CPU, precision=torch.bfloat16, compile=False)
    assert matrix_product(8, setup)().dtype == torch.bfloat16


@pytest.mark.parametrize(("what", "precision"), [("fusion", "float32"), ("step", "bf16")])
def test_json_has_every_figure(what: str, precision: str) -> None:
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
        "built_pairs",
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
        "fusions": ["token", "factorized", "dense"],
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
    names = {result["name"] for result in found["results"]}
    assert {(ratio["over"], ratio["under"]) for ratio in found["ratios"]} == EXPECTED[what]
    assert {name for pair in EXPECTED[what] for name in pair} <= names
    assert (found["built_pairs"] is not None) == (what == "fusion")
    for ratio in found["ratios"]:
        if ratio["over"] == "dense" + BUILT:
            assert ratio["peak_bytes"] > 5


EXPECTED = {
    "fusion": {
        ("factorized", "token"),
        ("dense", "token"),
        ("factorized" + BUILT, "factorized"),
        ("dense" + BUILT, "dense"),
        (ATTENTION + BUILT, ATTENTION),
    },
    "step": {
        (f"{fusion}, {kind}", f"token, {kind}")
        for fusion in ("dense", "factorized")
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
        benchmark("fusion", size="tiny", fusions=["dense"], batch=1, rounds=1, attn_ratio=ratio, device="cpu")
        for ratio in (0.25, 1.0)
    )
    assert wide["settings"]["attn_ratio"] == 1.0
    assert wide["results"][0]["gflop"] > 2 * small["results"][0]["gflop"]
    with pytest.raises(RecipeError, match=r"not divisible by model\.heads 3"):
        benchmark("fusion", size="tiny", attn_ratio=0.3, device="cpu")
    with pytest.raises(UsageError, match="not there"):
        benchmark("fusion", size="tiny", device="cuda:77")


def test_too_little_memory_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(recipes, setup):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setitem(bench_run.SUITES, "step", refuse)
    done = bench("step --size tiny --batch 64 --device cpu")
    assert done.exit_code == 1
    assert "cpu has too little memory for a batch of 64" in done.stderr
    assert "--batch 32" in done.stderr


def test_help_fits_80_columns_and_ends_in_examples() -> None:
    done = bench("--help", env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.index("Examples:") < done.stdout.index("Next:")


@pytest.mark.parametrize(
    "args", ["", "other", "fusion --batch 0", "fusion --device tpu", "step --fusion late"]
)
def test_wrong_words_are_usage_errors(args: str) -> None:
    assert bench(args).exit_code == 2
