"""Models on a hub on loopback: pushed with their card, found by name, and what goes wrong, in words."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import avtool
from avtool.cli import app
from avtool.errors import AvtoolError, CheckpointError, UsageError
from avtool.files import sha256_of
from avtool.hub import fetch_model, is_hub_name
from avtool.places import find_model, resolve_checkpoint
from avtool.push import model_card, push, save
from avtool.registry import TASKS
from avtool.tasks.names import ClassNames
from avtool.tracking import EVALUATIONS, keep_evaluation, kept_tables
from tests.clips import clip
from tests.hub import OWNER, TOKEN, Hub, Repository, isolate
from tests.unit.test_load_export import saved
from tests.unit.test_pull import serving

ROOT = Path(__file__).parents[2]
"""For a process that imports from these tests."""

NAME = f"{OWNER}/toy"
SMALL = (
    "max_steps=2",
    "train.batch_size=4",
    "train.accumulate=1",
    "train.eval_clips=0",
    "data.workers=0",
    "model.image_size=[64,64]",
    "model.audio_size=[64,96]",
    "model.dim=32",
    "model.depth=1",
    "model.heads=2",
    "model.fusion.tokens=[4,2,2]",
    "model.decoder={dim: 16, depth: 1, heads: 2}",
)


def run_avtool(*words: str | Path) -> str:
    """What the command prints on stdout."""
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.stdout


@pytest.fixture(scope="module")
def trained(synth: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``pre`` and ``loc``, two steps each, of which ``loc`` was evaluated, and a clip."""
    folder, data = tmp_path_factory.mktemp("trained"), synth(20)
    run_avtool("pretrain", "--recipe", "tiny", "--data", data, "--out", folder / "pre", *SMALL)
    start = ["--recipe", "tiny-localize", "--from", folder / "pre", "--data", data, "--out", folder / "loc"]
    run_avtool("finetune", "localize", *start, *SMALL[:5], "localize.width=16")
    run_avtool("evaluate", folder / "loc", "--data", data, "--protocol", "pointing")
    clip(folder / "clip.mp4", size=(90, 120), seed=7)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, and nothing of the caller's own; ``tmp_path`` is the folder one is in."""
    running = Hub("Loie/VGGSound", {})
    isolate(monkeypatch, running, tmp_path / "home")
    for name in [name for name in os.environ if name.startswith("AVTOOL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with serving(running):
        yield running


def process(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with another HF_HOME as one likes."""
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)


def encoded(model: avtool.Model) -> str:
    """The sum of what it makes of the same input."""
    generator, frames = torch.Generator().manual_seed(0), model.config.model.audio_size[1]
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    audio = torch.rand(2, frames * model.log_mel.hop, generator=generator) - 0.5
    tokens = model.encode(image, audio)
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in tokens)).hexdigest()


ENCODE = """
import sys, torch, avtool
from tests.unit.test_hub import encoded
torch.set_num_threads(1)
print(encoded(avtool.load(sys.argv[1])))
"""


def test_a_run_is_pushed_and_loaded_by_name_elsewhere_to_the_bit(
    hub: Hub, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pushed = CliRunner().invoke(app, ["push", str(trained / "loc"), NAME, "--licence", "cc-by-4.0"])
    assert pushed.exit_code == 0, pushed.stderr
    assert pushed.stdout == f"{hub.url}{NAME}/commit/{hub.models[NAME].branches['main']}\n"
    files = hub.models[NAME].files
    assert {*files} == {"README.md", "config.json", "model.safetensors"}
    checkpoint = trained / "loc" / "checkpoints" / "step-00000002"
    assert files["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    there = tmp_path / "elsewhere"
    fetched = process("-c", ENCODE, NAME, HF_HOME=str(there))
    assert fetched.returncode == 0, fetched.stderr
    asked = len(hub.seen)
    offline = process("-c", ENCODE, NAME, HF_HOME=str(there), HF_HUB_OFFLINE="1")
    assert offline.stdout == fetched.stdout == encoded(avtool.load(trained / "loc")) + "\n", offline.stderr
    assert len(hub.seen) == asked
    # what is there is not fetched again, and a hub that does not answer is done without
    again = avtool.Model.from_pretrained(NAME, cache_dir=there / "hub")
    assert not [path for path, _, _ in hub.seen[asked:] if path.startswith(("cdn", "api"))]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert avtool.Model.from_pretrained(NAME, cache_dir=there / "hub").folder == again.folder
    # nothing of the token was kept or shown, or sent to where the large file went
    said = pushed.output + fetched.stderr + offline.stderr
    assert TOKEN not in said and not any(TOKEN.encode() in content for content in files.values())
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
    assert {sent for path, _, sent in hub.seen if path.startswith(("upload", "cdn"))} == {None}


def test_every_command_takes_the_name(
    hub: Hub, trained: Path, synth: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(trained / "loc", NAME, token=TOKEN)
    name = f"{NAME}@{hub.models[NAME].branches['main']}"
    for model, out in ((trained / "loc", "own.npy"), (name, "hub.npy")):
        run_avtool(
            "localize", trained / "clip.mp4", "--model", model, "--out", "map.png", "--raw", out, "--force"
        )
    assert Path("own.npy").read_bytes() == Path("hub.npy").read_bytes()
    data = ["--data", synth(20), "--protocol", "pointing", "--json"]
    tables = [json.loads(run_avtool("evaluate", model, *data))["tables"] for model in (trained / "loc", NAME)]
    assert tables[0] == tables[1]
    calls: list[Any] = []
    for place, real in (("avtool.places.fetch_model", fetch_model), ("avtool.evaluate.sha256_of", sha256_of)):
        monkeypatch.setattr(place, lambda *args, real=real: calls.append(real) or real(*args))
    assert json.loads(run_avtool("evaluate", NAME, *data))["tables"] == tables[1]
    assert len(calls) == 2 and {*calls} == {
        fetch_model,
        sha256_of,
    }  # the hub is asked once, the weights read once
    assert json.loads(run_avtool("inspect", NAME, "--json"))["kind"] == "localization"
    out = ["--data", synth(20), "--out", "again", "--from", NAME]
    run_avtool("finetune", "localize", "--recipe", "tiny-localize", *out, *SMALL[:5], "localize.width=16")
    facts = json.loads(Path("again/run.json").read_text())["started_from"]
    assert facts["origin"] == "avtool finetune localize on synth, step 2 of 2"
    card = model_card(resolve_checkpoint(Path("again")), "me/other", run=Path("again"))
    assert yaml.safe_load(card.split("---")[1])["base_model"] == NAME
    assert f"localize on synth, step 2 of 2 ({NAME})" in card


def test_the_card_says_what_the_run_kept(hub: Hub, trained: Path, tmp_path: Path) -> None:
    run_avtool("push", trained / "loc", NAME, "--license", "cc-by-4.0", "--to", "card")
    card = Path("card/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "library_name": "avtool",
        "license": "cc-by-4.0",
        "tags": ["audio-visual", "localize"],
        "metrics": ["pointing"],
    }
    assert f"\navtool localize clip.mp4 --model {NAME} --out heatmap.png\n" in card
    assert f'avtool.load("{NAME}")' in card
    (table,) = kept_tables(
        trained / "loc", json.loads((trained / "loc" / EVALUATIONS).read_text().splitlines()[0])["weights"]
    )
    roles = {row["role"] for row in table["rows"]}
    assert roles == {"model", "control", "floor"}
    for row in table["rows"]:
        assert f"{row['measures']['pointing']['value']:.1f}" in card
    assert f"n = {table['samples']}" in card and "untrained weights (control)" in card
    trained_on = json.loads((trained / "loc" / "run.json").read_text())["data"]["trained_on"]
    assert f"synth: {trained_on} clips trained on" in card and "rendered, not recorded" in card
    assert TASKS["localize"].limits in card and "temperature: 0.07" in card
    places = (str(trained), str(tmp_path), "init:")
    assert not [
        place for place in places for path in Path("card").iterdir() if place in str(path.read_bytes())
    ]


def test_tables_of_other_weights_and_older_ones_are_left_out(tmp_path: Path) -> None:
    def kept(weights: str, value: float, data: str = "synth, split test") -> None:
        row = {"name": "map", "role": "model", "measures": {"x": {"value": value, "low": None, "high": None}}}
        table = {"task": "t", "protocol": "p", "words": "w", "data": data, "rows": [row]}
        keep_evaluation(tmp_path, {"weights": weights, "data": {"checksum": "c"}, "tables": [table]})

    for weights, value, data in (("a", 1, "one"), ("a", 3, "two"), ("a", 4, "one"), ("b", 2, "one")):
        kept(weights, value, data)
    found = [table["rows"][0]["measures"]["x"]["value"] for table in kept_tables(tmp_path, "a")]
    assert found == [4, 3]
    with (tmp_path / EVALUATIONS).open("a") as file:
        file.write('{"weights": "a", "tabl')  # the disk was full
    assert len(kept_tables(tmp_path, "a")) == 2


def test_data_sets_are_called_as_the_hub_calls_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = saved(run / "best")
    told = {"trained_on": 3, "held_out": 1, "checksum": "c" * 64}
    for name, called in {
        "vggsound": ["Loie/VGGSound"],
        "avsbench-s4": ["avsbench"],
        "synth": None,
        "mine": None,
    }.items():
        facts = {"avtool": "0", "data": {"name": name, **told}}
        (run / "run.json").write_text(json.dumps(facts))
        card = model_card(folder, NAME, run=run)
        assert yaml.safe_load(card.split("---")[1]).get("datasets") == called
        assert f"{name}: 3 clips trained on" in card and "Recipe" not in card
    (run / "run.json").write_text('{"data": {"name": "early"}}')
    assert "Nothing is recorded" in model_card(folder, NAME, run=run)


@pytest.mark.parametrize("kind", ["autoencoder", "classifier", "separation"])
def test_a_card_gives_a_command_that_parses(kind: str, tmp_path: Path) -> None:
    card = model_card(saved(tmp_path / "model", kind), NAME)
    command = re.findall(r"^avtool .*$", card, re.MULTILINE)[0].split()
    assert command[3:5] == ["--model", NAME] and command[2] == "clip.mp4"
    done = CliRunner().invoke(app, [*command[1:], "--no-such"])
    assert "No such option: --no-such" in done.stderr
    assert "licence" in card and "Nothing is recorded" in card and "have not been evaluated" in card


def test_a_card_of_ones_own_is_pushed_as_it_is(hub: Hub, trained: Path) -> None:
    save(trained / "loc", NAME, Path("card"))
    Path("card/README.md").write_text("---\nlicense: other\n---\nMine.\n")
    push(Path("card"), f"{NAME}@mine", token=TOKEN)
    model = hub.models[NAME]
    assert model.commits[model.branches["mine"]]["README.md"] == b"---\nlicense: other\n---\nMine.\n"
    assert model.files == {} and avtool.load(f"{NAME}@mine").folder.name == model.branches["mine"]
    with pytest.raises(UsageError, match=r"README\.md is the card"):
        push(Path("card"), NAME, licence="other", token=TOKEN)
    with pytest.raises(UsageError, match="card exists"):
        save(trained / "loc", NAME, Path("card"))
    for words in (["--force"], ["--private", "--to", "new"]):
        done = CliRunner().invoke(app, ["push", "card", NAME, *words])
        assert done.exit_code == 2 and f"{words[0]} changes nothing" in done.stderr


def test_names_of_classes_go_with_a_model(hub: Hub, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "classifier")
    ClassNames(tuple("abcde")).write(folder)
    (folder / "trainer.pt").write_bytes(b"for a resume")
    push(folder, NAME, token=TOKEN)
    assert {*hub.models[NAME].files} == {"README.md", "classes.json", "config.json", "model.safetensors"}
    there = avtool.load(NAME)
    assert ClassNames.of(there.folder, count=5).names == tuple("abcde")
    assert ClassNames.of(there.save_pretrained("again"), count=5).names == tuple("abcde")


def test_large_files_go_in_parts_where_the_hub_says_so(hub: Hub, trained: Path) -> None:
    hub.part = 10_000
    address = push(trained / "loc", NAME, token=TOKEN)
    assert address.endswith(hub.models[NAME].branches["main"])
    assert len([path for path, _, _ in hub.seen if re.fullmatch(r"upload/\w+/\d+", path)]) > 3
    assert torch.equal(
        avtool.load(NAME).encoder.fusion_tokens, avtool.load(trained / "loc").encoder.fusion_tokens
    )


def test_large_files_go_the_newer_way_where_it_is_installed(hub: Hub, trained: Path, tmp_path: Path) -> None:
    hf_xet = pytest.importorskip("hf_xet")
    if not hasattr(hf_xet, "XetSession"):
        pytest.skip("an older hf_xet")
    weights = trained / "loc" / "checkpoints" / "step-00000002" / "model.safetensors"
    content = weights.read_bytes()
    hub.xet = tmp_path / "xet"
    hub.xet.mkdir()
    hub.by_xet[sha256 := hashlib.sha256(content).hexdigest()] = hf_xet.hash_files([str(weights)])[0].hash
    hub.blobs[sha256] = content  # for its lists: no file is given by HTTP
    way = {"HF_HUB_DISABLE_XET": "0", "HF_TOKEN": TOKEN, "HF_XET_CACHE": str(tmp_path / "chunks")}
    pushed = process("-m", "avtool", "push", trained / "loc", NAME, **way)
    assert pushed.returncode == 0, pushed.stderr
    assert sum(path.stat().st_size for path in hub.xet.rglob("*default.*")) > len(content) / 2
    assert not [path for path, _, _ in hub.seen if path.startswith("upload") or "lfs" in path]
    fetched = process("-c", ENCODE, NAME, **way)
    assert fetched.stdout == encoded(avtool.load(trained / "loc")) + "\n", fetched.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert not kept and TOKEN not in pushed.stderr + fetched.stderr


def test_the_python_way(hub: Hub, trained: Path) -> None:
    model = avtool.Model.from_pretrained(trained / "loc")
    model.save_pretrained("one", name=NAME, licence="apache-2.0")
    assert "pointing" in Path("one/README.md").read_text()
    with torch.no_grad():
        model.encoder.fusion_tokens.add_(1)
    Path("two").mkdir()
    assert model.save_pretrained("two") == Path("two")
    assert "have not been evaluated" in Path("two/README.md").read_text()  # these weights
    model.push_to_hub(f"{NAME}@changed", licence="apache-2.0", token=TOKEN)
    there = avtool.Model.from_pretrained(NAME, revision="changed", cache_dir="cache", token=TOKEN)
    assert torch.equal(there.encoder.fusion_tokens, model.encoder.fusion_tokens)
    assert there.folder.resolve().is_relative_to(Path("cache").resolve())
    with pytest.raises(UsageError, match="one exists"):
        model.save_pretrained("one")
    with pytest.raises(CheckpointError, match=r"offline, so .* and it is not in the cache"):
        avtool.Model.from_pretrained(NAME, local_files_only=True)
    for name in (NAME, trained / "loc"):
        with pytest.raises(TypeError, match="local_dir"):  # which huggingface_hub has, and keeps elsewhere
            avtool.Model.from_pretrained(name, local_dir="one")


def test_a_folder_of_that_name_wins_and_a_mistyped_path_asks_nobody(hub: Hub, trained: Path) -> None:
    push(trained / "loc", NAME, token=TOKEN)
    asked = len(hub.seen)
    shutil.copytree(trained / "loc", NAME)
    assert find_model(Path(NAME))[0] == Path(NAME) / "checkpoints" / "step-00000002"
    with pytest.raises(CheckpointError, match="no model at me/tyo") as caught:
        resolve_checkpoint(Path("me/tyo"))
    assert "me/tyo@main asks the hub" in caught.value.hint and len(hub.seen) == asked
    assert resolve_checkpoint(Path(f"{NAME}@main")).parent.name == "snapshots"
    folders = [avtool.Model.from_pretrained(NAME, revision=name).folder for name in (None, "main")]
    assert [folder.parent.name for folder in folders] == ["checkpoints", "snapshots"]
    assert is_hub_name(Path("facebook/x@refs/pr/1"))
    for path in ("x", "/a/b", "../b", "a/b/c", "a b/c", "a/.b", "./me/x"):
        assert not is_hub_name(Path(path)), path


def foreign(hub: Hub) -> None:
    hub.models["other/bert"] = Repository()
    files = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"much", "README.md": b""}
    hub.models["other/bert"].commit("main", files)


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("other/nothing", "there is no model other/nothing at http://127", "hf auth login"),
        ("other/private", "there is no model .* or it is private", "HF_TOKEN"),
        ("other/gated", "is gated", "accept them at http"),
        ("other/bert", "no model of avtool's: its config.json is another program's", "avtool convert"),
        ("other/empty", "no model of avtool's: there is no config.json", "avtool push"),
        ("other/half", "there is no model.safetensors", "avtool push"),
        ("other/half@v7", "has no revision v7", "@v7"),
        ("o--o/x", "o--o/x: ", "owner/name"),
    ],
)
def test_what_cannot_be_had_is_said_with_the_way_out(name: str, words: str, hint: str, hub: Hub) -> None:
    foreign(hub)
    hub.models |= {
        "other/private": Repository(private=True),
        "other/gated": Repository(gated=True),
        "other/empty": Repository(),
        "other/half": Repository(),
    }
    hub.models["other/half"].commit("main", {"config.json": b'{"kind": "autoencoder"}'})
    hub.models["other/gated"].commit("main", {"config.json": b'{"kind": "autoencoder"}'})
    with pytest.raises(AvtoolError, match=words) as caught:
        avtool.load(name)
    assert hint in caught.value.hint
    assert not [path for path, _, _ in hub.seen if path.startswith("cdn")]
    assert name.startswith("other/half") or not any("safetensors" in path for path, _, _ in hub.seen)
    done = CliRunner().invoke(app, ["inspect", name])
    assert done.exit_code in (1, 2) and done.stderr.count("\n") == 2 and re.search(words, done.stderr)


def test_no_hub_and_no_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    done = process("-m", "avtool", "inspect", NAME, HF_HUB_OFFLINE="1")
    assert (
        done.returncode == 1
        and "offline, so http" in done.stderr
        and "not in the cache, or not in full" in done.stderr
    )
    assert "unset HF_HUB_OFFLINE" in done.stderr and done.stderr.count("\n") == 2
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens there
    with pytest.raises(
        CheckpointError, match=r"http://127\.0\.0\.1:9/me/toy cannot be asked: .*onnect"
    ) as caught:
        avtool.load(NAME)
    assert "network" in caught.value.hint


def refused_push(model: Path, **options: Any) -> AvtoolError:
    with pytest.raises(AvtoolError) as caught:
        push(model, **{"name": NAME, "token": TOKEN, **options})
    return caught.value


def test_a_push_that_is_refused_commits_nothing(hub: Hub, trained: Path) -> None:
    run = trained / "loc"
    error = refused_push(run, token=None)
    assert "there is no token to write to" in error.message and "hf auth login" in error.hint
    assert not hub.seen
    error = refused_push(run, token="hf_wrong")
    assert "cannot be written: " in error.message and "a token that may write" in error.hint
    assert "hf_wrong" not in error.message + error.hint
    error = refused_push(run, name="you/toy")
    assert "under the namespace" in error.message and "a token that may write" in error.hint
    error = refused_push(run, licence="mine")
    assert 'license" must be one of' in error.message and "licences are those of" in error.hint
    assert hub.models[NAME].files == {}
    error = refused_push(run, private=True)
    assert "is there already, and public" in error.message
    hub.refused[f"{NAME}.git/info/lfs/objects/batch"] = (413, "")
    assert "cannot be written" in refused_push(run).message
    assert hub.models[NAME].files == {}
    assert "is no name on the hub" in refused_push(run, name="toy").message
    del hub.refused[f"{NAME}.git/info/lfs/objects/batch"]
    push(run, f"{OWNER}/hidden", private=True, token=TOKEN)
    assert hub.models[f"{OWNER}/hidden"].private
    assert fetch_model(f"{OWNER}/hidden", token=TOKEN).is_dir()


def test_broken_weights_are_not_pushed(hub: Hub, tmp_path: Path) -> None:
    model = avtool.load(saved(tmp_path / "model"))
    with torch.no_grad():
        model.encoder.fusion_tokens.fill_(float("nan"))
    model.save_pretrained("broken")
    assert "not finite" in refused_push(Path("broken")).message and not hub.seen
