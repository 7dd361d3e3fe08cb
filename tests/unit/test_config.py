"""Recipes: what is shipped is valid, what is wrong is named with file, line and nearest key."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from avtool import __version__
from avtool.config import shipped
from avtool.config.recipes import dump_recipe, load_recipe, recipe_keys
from avtool.config.schema import Recipe
from avtool.config.types import flat
from avtool.errors import RecipeError
from avtool.model.build import build_empty_model

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
task: pretrain
max_steps: 10
data: {name: synth}
model:
  fusion: {kind: dense}
init: {image: none, audio: none}
train:
  batch_size: 4
"""


@pytest.fixture
def recipe_file(tmp_path: Path):
    def write(text: str, name: str = "mine.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def error_of(name_or_path: object, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(name_or_path), overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", shipped.recipe_names())
def test_shipped_recipes_are_valid_short_and_say_what_they_are_for(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.audio_size[1] * recipe.spectrogram.hop == 3 * recipe.spectrogram.sample_rate
    assert len((ROOT / "recipes" / f"{name}.yaml").read_text().splitlines()) <= 40
    head = shipped.read_head(ROOT / "recipes" / f"{name}.yaml")
    assert all(asdict(head).values())
    task = load_recipe(name).task
    verb = "pretrain" if task == "pretrain" else f"finetune {task}"
    assert f"avtool {verb} --recipe {name}" in head.command


def test_a_head_goes_on_in_lines_that_are_set_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# note: x\n#   not kept\n# score: 7 % (one\n#   seed): low\n# time: an hour\ntask: pretrain\n"
    )
    head = shipped.read_head(path)
    assert (head.score, head.time) == ("7 % (one seed): low", "an hour")


def test_the_four_recipes_are_what_their_names_say() -> None:
    full = {name: load_recipe(name) for name in ("dense", "factorized", "token")}
    for name, recipe in full.items():
        assert recipe.model.fusion.kind == name
        assert (recipe.epochs, recipe.train.batch_size, recipe.optim.base_lr) == (200, 512, 1.5e-4)
        assert (recipe.model.dim, recipe.model.depth, recipe.model.fusion.tokens) == (768, 12, (16, 8, 8))
        assert (recipe.init.image, recipe.init.audio) == ("mae-vitb", "audiomae-vitb")
    tiny = load_recipe("tiny")
    assert tiny.optim.base_lr * tiny.train.batch_size * tiny.train.accumulate / 256 == pytest.approx(1e-3)
    assert (tiny.init.image, tiny.init.audio, tiny.data.name) == ("none", "none", "synth")


@pytest.mark.parametrize("name", shipped.recipe_names())
def test_a_dumped_recipe_reads_back_to_the_same(name: str, recipe_file) -> None:
    recipe = load_recipe(name, ["optim.base_lr=1e-7", "model.fusion.layers=[0,2]"])
    assert load_recipe(str(recipe_file(dump_recipe(recipe)))).model_dump() == recipe.model_dump()


def test_every_key_is_described_and_random_weights_are_never_a_default() -> None:
    assert all(recipe_keys().values())
    assert Recipe.model_fields["init"].is_required()
    values = yaml.safe_load(GOOD)
    del values["init"]["audio"]
    with pytest.raises(ValidationError, match="pretraining says where each encoder starts"):
        Recipe.model_validate(values)


def test_overrides_are_yaml_and_split_at_the_first_equals_sign() -> None:
    recipe = load_recipe(
        "tiny",
        ["optim.base_lr=1e-4", "model.image_size=[128,128]", "init.image=weights/a=b.pth", "max_steps=1e4"],
    )
    assert recipe.optim.base_lr == 1e-4
    assert recipe.model.image_size == (128, 128)
    assert recipe.init.image == "weights/a=b.pth"
    assert recipe.max_steps == 10_000


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "'1e-4'"])
def test_text_that_is_a_number_becomes_one(text: str, recipe_file) -> None:
    recipe = load_recipe(str(recipe_file(f"{GOOD}optim: {{base_lr: {text}}}\n")))
    assert recipe.optim.base_lr == 1e-4


def test_unknown_keys_name_file_line_and_nearest_key(recipe_file) -> None:
    path = recipe_file(GOOD.replace("  batch_size: 4", "  batch_size: 4\n  acumulate: 2"))
    error = error_of(path)
    assert error.message == f"{path}:9: unknown key train.acumulate"
    assert error.hint == "did you mean train.accumulate?"


def test_a_right_name_in_the_wrong_section_is_found(recipe_file) -> None:
    path = recipe_file(GOOD + "batch_size: 4\n")
    assert error_of(path).message == f"{path}:9: unknown key batch_size"
    assert error_of(path).hint == "did you mean train.batch_size?"


def test_unknown_keys_on_the_command_line_name_the_argument() -> None:
    error = error_of("tiny", "optim.lr=1e-4")
    assert error.message == "argument 'optim.lr=1e-4': unknown key optim.lr"
    assert error.hint == "did you mean optim.base_lr?"
    assert error_of("tiny", "lr=1e-4").hint == "did you mean optim.base_lr?"
    assert error_of("tiny", "train.batchsize=4").hint == "did you mean train.batch_size?"


def test_a_key_that_is_near_to_none_is_answered_with_its_section() -> None:
    hint = error_of("tiny", "train.nope=1").hint
    assert re.match(r"did you mean train\.\w+\? train has batch_size, accumulate, precision, ", hint)
    assert error_of("tiny", "train.steps=1").hint == "did you mean max_steps?"
    assert error_of("tiny", "init.nope=1").hint == "did you mean init.model? init has model, image, audio"
    assert error_of("tiny", "xyz=1").hint.startswith("there are task, seed, epochs, ")


def test_an_unknown_key_beside_a_section_of_the_wrong_type_is_named_too() -> None:
    for settings in (("optim=5", "foo=1"), ("foo=1", "optim=5")):
        assert re.search("unknown key foo|optim is 5: it should be", error_of("tiny", *settings).message)


def test_wrong_values_name_file_line_key_and_what_is_expected(recipe_file) -> None:
    path = recipe_file(GOOD.replace("batch_size: 4", "batch_size: many"))
    error = error_of(path)
    assert error.message == f"{path}:8: train.batch_size is 'many': it should be a whole number"
    assert error.hint == "train.batch_size: clips in a batch, of all processes"


@pytest.mark.parametrize(
    ("override", "wrong"),
    [
        ("model.image_size=64", "it should be a list in brackets"),
        ("model.image_size=64,64", "it should be a list in brackets"),
        ("model.image_size=[64]", "it has too few values"),
        ("model.image_size=[64,64,3]", "it has 3 values, 2 are wanted"),
        ("model.image_size=[64,x]", "'x' should be a whole number"),
        ("model.image_size=[64,-1]", "-1 should be greater than or equal to 1"),
        ("model.fusion.layers=3", "it should be 'all' or 'none', or a list in brackets"),
        ("model.fusion.layers=[0,x]", "'x' should be a whole number"),
        ("model.fusion.kind=sum", "it should be 'token', 'dense', 'factorized' or 'bilinear'"),
        ("data.crop_scale=0.5", "it should be a list in brackets"),
        ("data.flip=maybe", "it should be true or false"),
        ("data.name=''", "it should be text, and not empty"),
        ("optim.base_lr=fast", "it should be a number"),
        ("train=3", "it should be a section with keys of its own"),
    ],
)
def test_the_form_of_a_value_is_said_in_plain_words(override: str, wrong: str) -> None:
    error = error_of("tiny", override)
    assert error.message.endswith(f": {wrong}")
    if "list" in wrong or "values" in wrong:
        assert re.search(r", as \[.+\]$", error.hint)


def test_missing_keys_are_named(recipe_file) -> None:
    path = recipe_file(GOOD.replace(", audio: none", ""))
    assert error_of(path).message.startswith(f"{path}:6: init.audio: it is missing")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.image_size=[100,64]", "model.image_size"),
        ("model.image_size=[64]", "model.image_size"),
        ("model.audio_size=[64,190]", "model.audio_size"),
        ("model.dim=200", "model.dim"),
        ("model.dim=189", "model.dim"),
        ("model.decoder.dim=100", "model.decoder.dim"),
        ("model.fusion.layers=[0,6]", "model.fusion.layers"),
        ("model.fusion.layers=[1,1]", "model.fusion.layers"),
        ("model.fusion.layers=some", "model.fusion.layers"),
        ("model.fusion.tokens=[8,-1,4]", "model.fusion.tokens"),
        ("model.fusion.tokens=[8,0,4]", "model.fusion.tokens"),
        ("model.fusion.attn_ratio=0.3", "model.fusion.attn_ratio"),
        ("model.fusion.pair_dropout=0.1", "model.fusion.pair_dropout"),
        ("model.mask_ratio.image=0.99", "model.mask_ratio.image"),
        ("model.mask_ratio.audio=1", "model.mask_ratio.audio"),
        ("data.crop_scale=[1.0,0.5]", "data.crop_scale"),
        ("data.flip=1", "data.flip"),
        ("optim.base_lr=.nan", "optim.base_lr"),
        ("optim.warmup=1", "optim.warmup"),
        ("optim.betas=[0.9,1]", "optim.betas"),
        ("spectrogram.hop=900", "spectrogram.hop"),
        ("train.batch_size=true", "train.batch_size"),
        ("max_steps=null", "max_steps"),
        ("data=null", "data"),
        ("seed.x=1", "seed"),
    ],
)
def test_what_cannot_be_is_refused_at_its_key(override: str, key: str) -> None:
    error = error_of("tiny", override)
    assert error.message.startswith(f"argument {override!r}: {key}")
    assert error.hint.startswith(f"{key}: ")


def test_pair_dropout_is_refused_with_the_reason() -> None:
    assert "softmax over pairs is factored" in error_of("dense", "model.fusion.pair_dropout=0.1").message


def test_rank_is_a_setting_of_bilinear_alone() -> None:
    assert "dense has no product of tokens" in error_of("dense", "model.fusion.rank=2").message
    recipe = load_recipe("tiny", ["model.fusion.kind=bilinear", "model.fusion.rank=2"])
    model = build_empty_model("autoencoder", flat(recipe.model))
    assert model.encoder.fusion_blocks["0"].attn.a.out_features == 2 * recipe.model.heads
    assert "rank" in error_of("tiny", "model.fusion.kind=bilinear", "model.fusion.rank=0").message


@pytest.mark.parametrize("argument", ["foo", "=3", "model..dim=3", "model.image_size=[1,"])
def test_arguments_that_are_no_settings_are_named(argument: str) -> None:
    assert repr(argument) in error_of("tiny", argument).message


def test_unknown_recipes_name_the_nearest() -> None:
    assert error_of("factorised").hint.startswith("did you mean factorized")
    assert ", ".join(shipped.recipe_names()) in error_of("zzz").hint
    assert "no recipe file" in error_of("nowhere/mine.yaml").message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("task: pretrain\ndata: [1, 2\nseed: 0\n", 3),
        ("task: pretrain\n  seed: 0\n", 2),
        ("task: !!python/object:os.system x\n", 1),
    ],
)
def test_yaml_that_is_none_names_file_and_line(text: str, line: int, recipe_file) -> None:
    path = recipe_file(text)
    assert error_of(path).message.startswith(f"{path}:{line}: not valid YAML")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text\n"])
def test_a_recipe_is_a_mapping(text: str, recipe_file) -> None:
    assert "a recipe is a mapping" in error_of(recipe_file(text)).message


def test_recursive_yaml_and_binary_files_are_refused(recipe_file, tmp_path: Path) -> None:
    deep = recipe_file("data: &a {b: *a}\n")
    assert error_of(deep).message == f"{deep}:1: nested too deep"
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not text in UTF-8" in error_of(tmp_path / "binary.yaml").message


def test_a_key_given_twice_is_refused(recipe_file) -> None:
    path = recipe_file(GOOD + "max_steps: 20\n")
    assert error_of(path).message == f"{path}:9: max_steps stands here a second time, after {path}:2"


def test_a_child_lies_over_its_one_parent(recipe_file) -> None:
    child = recipe_file("extends: tiny\nmodel: {fusion: {kind: token}}\n", "child.yaml")
    recipe = load_recipe(str(child))
    assert recipe.model.fusion.kind == "token"
    assert recipe.model.fusion.tokens == load_recipe("tiny").model.fusion.tokens
    sibling = recipe_file("extends: child.yaml\n", "grandchild.yaml")
    assert error_of(sibling).message.startswith(f"{sibling}:1: child.yaml itself extends tiny")
    lost = recipe_file("seed: 1\nextends: tinny\n", "lost.yaml")
    assert error_of(lost).message == f"{lost}:2: extends: unknown recipe 'tinny'"
    assert "at most one" in error_of(sibling).message


def test_a_loop_of_parents_is_named_with_a_way_out(recipe_file) -> None:
    own = recipe_file("extends: own.yaml\n", "own.yaml")
    assert error_of(own).message == f"{own}:1: own.yaml extends itself"
    assert error_of(own).hint == f"extend a shipped recipe: {', '.join(shipped.recipe_names())}"
    first = recipe_file("extends: second.yaml\n", "first.yaml")
    second = recipe_file("extends: first.yaml\n", "second.yaml")
    assert error_of(first).message == f"{first}:1: first.yaml and second.yaml extend each other"
    assert error_of(first).hint.startswith(f"remove extends from {second}")
    third = recipe_file("extends: first.yaml\n", "third.yaml")
    assert error_of(third).message.startswith(f"{third}:1: first.yaml itself extends second.yaml")
    assert "extend second.yaml here" in error_of(third).hint


def test_errors_in_a_parent_name_the_parents_line(recipe_file) -> None:
    parent = recipe_file(GOOD.replace("batch_size: 4", "batch_size: 0"), "parent.yaml")
    child = recipe_file("extends: parent.yaml\n", "child.yaml")
    assert error_of(child).message.startswith(f"{parent}:8: train.batch_size is 0")


def test_recipes_are_found_in_a_package_and_beside_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "avtool"
    package.mkdir()
    with pytest.raises(RecipeError, match="no recipes"):
        shipped.recipes_folder(package)
    (tmp_path / "recipes").mkdir()
    assert shipped.recipes_folder(package) == tmp_path / "recipes"
    (package / "recipes").mkdir()
    assert shipped.recipes_folder(package) == package / "recipes"


def built(kind: str, folder: Path) -> Path:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.iterdir()
    return file


def test_a_wheel_holds_the_recipes_where_they_are_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(built("wheel", tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    code = "import avtool.config.shipped as s; print(*s.recipe_names(), s.recipes_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [*shipped.recipe_names(), str(tmp_path / "site" / "avtool" / "recipes")]
    for held in ("html/base.html.j2", "card.md.j2", "py.typed"):
        assert (tmp_path / "site" / "avtool" / held).is_file()


def test_a_source_distribution_holds_what_a_wheel_is_made_of(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path)) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    package = [path for path in (ROOT / "avtool").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    wanted = {str(path.relative_to(ROOT)) for path in (*package, *(ROOT / "recipes").glob("*.yaml"))}
    wanted |= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "tests/conftest.py"}
    assert wanted - held == set()


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_package_index_takes_what_is_built(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", str(built(kind, tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stdout + done.stderr


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__ and f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


OLD = """\
extends: tiny
localize: {way: two-pass, score: soft}
"""


def test_keys_with_new_names_are_told(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "old.yaml"))
    assert caught.value.message == f"{tmp_path / 'old.yaml'}:2: localize.way is called localize.encoding now"
    assert caught.value.hint == "localize.encoding=unimodal"
    with pytest.raises(
        RecipeError, match=r"argument 'optim.pretrained_ramp=0': .* optim.backbone_warmup now"
    ):
        load_recipe("tiny-localize", ["optim.pretrained_ramp=0"])


def test_a_run_that_was_made_with_old_keys_is_read(tmp_path: Path) -> None:
    given = yaml.safe_load(dump_recipe(load_recipe("tiny-localize", ["optim.backbone_warmup=0.25"])))
    given["localize"] |= {"way": "two-pass", "score": "soft"}
    given["optim"]["pretrained_ramp"] = given["optim"].pop("backbone_warmup")
    del given["localize"]["encoding"], given["localize"]["pooling"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(RecipeError, match="is called"):
        load_recipe(str(tmp_path / "recipe.yaml"))
    (tmp_path / "run.json").write_text("{}")
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    assert (recipe.options.encoding, recipe.options.pooling) == ("unimodal", "logsumexp")
    assert recipe.optim.backbone_warmup == 0.25
