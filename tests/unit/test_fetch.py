"""Fetching a data set from a hub on loopback: whose copy, licence and sizes; going on; what goes wrong, in words."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from typer.testing import CliRunner

from avtool import download as downloading
from avtool import fetch as fetching
from avtool.cli import app
from avtool.data.prepare import prepare
from avtool.errors import AvtoolError, DataError, UsageError
from avtool.fetch import fetch
from avtool.registry import DATASETS
from tests.clips import clip
from tests.hub import SHA, Hub
from tests.unit.test_pull import serving

REPO = "Loie/VGGSound"
PART = bytes(range(256)) * 1000
FILES = {
    "README.md": b"---\nlicense: cc-by-4.0\n---\n",
    "src/data.png": b"picture",
    "vggsound.csv": b'---g-f_I2yQ,1,"people, marching",test\n',
    "vggsound_00.tar.gz": PART,
    "vggsound_01.tar.gz": PART[:1000],
}
CLI = "from avtool.cli import main; main()"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    running = Hub(REPO, FILES, large=("vggsound_00.tar.gz", "vggsound_01.tar.gz"), license="cc-by-4.0")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("AVTOOL_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with serving(running):
        yield running


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: what the hub's library reads of the environment, it reads once."""
    command = [sys.executable, "-c", CLI, "fetch", *words]
    return subprocess.run(
        command,
        check=False,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def written(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


WHOLE = {
    "annotations/vggsound.csv": FILES["vggsound.csv"],
    "clips/vggsound_00.tar.gz": PART,
    "clips/vggsound_01.tar.gz": PART[:1000],
}


def test_the_files_come_where_prepare_looks_for_them(hub: Hub, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["fetch", "vggsound"])
    assert done.exit_code == 0, done.stderr
    assert written(tmp_path / "data" / "vggsound") == WHOLE
    assert done.stdout == "data/vggsound\n"
    said = done.stderr
    assert f"{REPO} at {hub.url.rstrip('/')}, a third party's copy" in said and SHA[:12] in said
    assert "licence, as its card says: cc-by-4.0" in said and "part 08 corrupt" in said
    assert "3 files, 257 kB (0 bytes are there already)" in said
    assert said.endswith("next: avtool prepare vggsound data/vggsound\n")
    asked = len(hub.seen)
    fetch("vggsound")  # all is there: only the hub's lists are asked for
    assert [path.split("/")[0] for path, _, _ in hub.seen[asked:]] == ["api", "api"]


def test_a_dry_run_lists_and_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    begun = tmp_path / "big" / "clips" / "vggsound_00.tar.gz.part"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(PART[:500])
    done = CliRunner().invoke(app, ["fetch", "vggsound", "--dry-run", "--out", "big"])
    assert done.stdout.splitlines() == [
        " 38 bytes         big/annotations/vggsound.csv",
        "   256 kB  begun  big/clips/vggsound_00.tar.gz",
        "     1 kB         big/clips/vggsound_01.tar.gz",
    ]
    assert "next" not in done.stderr
    found = json.loads(
        CliRunner().invoke(app, ["fetch", "vggsound", "--dry-run", "--out", "big", "--json"]).stdout
    )
    assert (found["bytes"], found["here"]) == (257_038, 500)
    assert (found["repo"], found["revision"], found["official"], found["licence"]) == (
        REPO,
        SHA,
        False,
        "cc-by-4.0",
    )
    assert found["files"][1]["target"] == "big/clips/vggsound_00.tar.gz"
    assert written(tmp_path / "big") == {"clips/vggsound_00.tar.gz.part": PART[:500]}


def test_parts_are_chosen_by_pattern(hub: Hub, tmp_path: Path) -> None:
    fetch("vggsound", tmp_path / "few", only=["vggsound.csv", "*_01*"], revision="main")
    assert sorted(written(tmp_path / "few")) == ["annotations/vggsound.csv", "clips/vggsound_01.tar.gz"]
    with pytest.raises(UsageError, match=r"no file \*\.zip") as caught:
        fetch("vggsound", only=["*.zip"])
    assert "vggsound_00.tar.gz" in caught.value.hint


def test_a_file_that_broke_off_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.breaks = [10**6, 10**6, 10**6, 100_000, 50_000]  # two lists, the csv, then the large one
    fetch("vggsound", tmp_path / "data")
    assert written(tmp_path / "data") == WHOLE
    assert [wanted for wanted in hub.asked if wanted] == ["bytes=100000-", "bytes=150000-"]


def test_ctrl_c_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    hub.held = "cdn/"
    command = [sys.executable, "-c", CLI, "fetch", "vggsound", "--out", "data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert hub.holds.wait(60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    hub.goes_on.set()
    assert process.returncode == 130, said
    assert "what came is kept" in said and "interrupted" in said and "Traceback" not in said
    assert "annotations/vggsound.csv" in written(tmp_path / "data")
    fetch("vggsound", tmp_path / "data")
    assert written(tmp_path / "data") == WHOLE


def test_a_wrong_checksum_keeps_nothing(hub: Hub, tmp_path: Path) -> None:
    (name,) = (name for name, content in hub.files.items() if content is PART)
    hub.files[name] = PART[:-1] + b"!"
    with pytest.raises(DataError, match="wrong sha256") as caught:
        fetch("vggsound", tmp_path / "data")
    assert "vggsound_00.tar.gz" in caught.value.message
    assert sorted(written(tmp_path / "data")) == ["annotations/vggsound.csv"]


def test_a_copy_cannot_write_outside_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    running = Hub(REPO, {"vggsound.csv": b"", "vggsound_x/../../../../x.tar.gz": b"x"})
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    with serving(running), pytest.raises(DataError, match=r"outside .*: vggsound_x/\.\./"):
        fetch("vggsound", tmp_path / "a" / "b")
    assert not written(tmp_path)


def test_a_full_disk_is_said_before_anything_comes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "free_bytes", lambda path: 1000)
    with pytest.raises(DataError, match="257 kB are to come, and 1 kB are free") as caught:
        fetch("vggsound", tmp_path / "data")
    assert "--only" in caught.value.hint and not (tmp_path / "data").exists()


def test_a_disk_that_fills_meanwhile(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = downloading._copy

    def full(answer: object, file: BinaryIO, block: bytes, **how: object) -> None:
        if len(block) < 1000:
            copy(answer, file, block, **how)
            return
        file.write(block[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(downloading, "_copy", full)
    done = CliRunner().invoke(app, ["fetch", "vggsound", "--out", "data"])
    assert done.exit_code == 1 and "no space left" in done.stderr and "same command again" in done.stderr
    assert written(tmp_path / "data")["clips/vggsound_00.tar.gz.part"] == PART[:1000]
    monkeypatch.setattr(downloading, "_copy", copy)
    fetch("vggsound", tmp_path / "data")
    assert written(tmp_path / "data") == WHOLE and "bytes=1000-" in hub.asked


@pytest.mark.parametrize(
    ("path", "answer", "words", "hint"),
    [
        ("", (401, "RepoNotFound"), "there is no data set Loie/VGGSound at http://127", "HF_ENDPOINT"),
        ("", (401, "GatedRepo"), "is gated", "hf auth login"),
        ("", (403, "GatedRepo"), "is gated", "accept them at http"),
        ("", (404, "RevisionNotFound"), "has no revision", "--revision"),
        ("/auth-check", (403, "GatedRepo"), "is gated", "HF_TOKEN"),
        ("", (500, ""), "cannot be asked: .*500", "try again"),
        (f"/tree/{SHA}", (429, ""), "cannot be asked: .*429", "try again"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_way_out(
    path: str, answer: tuple[int, str], words: str, hint: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.publish_info(**{**hub.info, "gated": "auto"})
    hub.refused[f"api/datasets/{REPO}{path}"] = answer
    with pytest.raises(AvtoolError, match=words) as caught:
        fetch("vggsound")
    assert hint in caught.value.hint


def test_no_hub_at_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files[f"api/datasets/{REPO}"] = b"<html>a page of a proxy</html>"
    with pytest.raises(DataError, match="cannot be asked") as caught:
        fetch("vggsound")
    assert "proxy" in caught.value.hint
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens there
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/datasets/Loie/VGGSound cannot be asked"):
        fetch("vggsound")
    done = run("vggsound", HF_HUB_OFFLINE="1")
    assert (
        done.returncode == 1 and "offline, so http" in done.stderr and "unset HF_HUB_OFFLINE" in done.stderr
    )


def test_a_token_goes_to_the_hub_alone_and_is_never_shown(hub: Hub, tmp_path: Path) -> None:
    done = run("vggsound", "--out", "data", "--json", HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    sent = {(path.split("/")[0], host): token for path, host, token in hub.seen}
    assert sent == {
        ("api", "127.0.0.1"): "Bearer hf_secret",
        ("datasets", "127.0.0.1"): "Bearer hf_secret",
        ("cdn", "localhost"): None,
    }
    hub.refused[f"api/datasets/{REPO}"] = (401, "RepoNotFound")
    refused = run("vggsound", HF_TOKEN="hf_secret")
    assert "hf_secret" not in done.stdout + done.stderr + refused.stdout + refused.stderr
    assert not any(b"hf_secret" in content for content in written(tmp_path).values())


@pytest.mark.parametrize("name", ["audioset", "music", "flickr-soundnet", "avsbench"])
def test_the_rest_is_said_in_words(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVTOOL_DATA", raising=False)
    done = CliRunner().invoke(app, ["fetch", name])
    assert done.exit_code == 1
    assert f"no copy of {name} to fetch: " in done.stderr and "2026-11" in done.stderr
    assert "hint: " in done.stderr and f"then: avtool prepare {name} data/{name}" in done.stderr


def test_each_data_set_says_what_was_found_of_it() -> None:
    own = {"manifest", "synth"}
    assert {name for name, dataset in DATASETS.items() if not dataset.copies} - own <= {"tones"}
    with pytest.raises(UsageError, match="synth is not fetched"):
        fetch("synth")
    assert not Path("data/synth").exists()


def test_what_was_fetched_is_prepared_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"clip{number:07d}_000030" for number in range(3)]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for number, name in enumerate(names):
            made = clip(tmp_path / f"{name}.mp4", seed=number)
            tar.add(made, f"scratch/a/b/c/d/e/video/{name}.mp4")  # six folders deep, as the copy has them
            made.unlink()
    rows = "".join(f"{name[:-7]},30,dog barking,train\n" for name in names)
    running = Hub(REPO, {"vggsound.csv": rows.encode(), "vggsound_00.tar.gz": archive.getvalue()})
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    with serving(running):
        copy = fetch("vggsound", tmp_path / "raw")
    assert copy.licence is None
    report = prepare("vggsound", copy.folder, out=tmp_path / "prepared", jobs=1).as_dict()
    assert (report["prepared"], report["missing"], report["refused"]) == (3, 0, 0)
