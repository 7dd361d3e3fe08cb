"""Pulling published weights from a server on loopback that can break off, lie and send pages."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from avtool import download as downloading
from avtool import weights
from avtool.cli import app
from avtool.config.checkpoint import read_config
from avtool.download import only_one
from avtool.errors import CheckpointError, UsageError
from avtool.model.build import build_model
from avtool.model.published import to_published
from avtool.places import find_model, resolve_checkpoint
from avtool.published import PUBLISHED, Published, cached_file, pulled_folder
from avtool.weights import find_starting_weights, pull

SETTINGS = {
    "dim": 64,
    "depth": 2,
    "heads": 1,
    "image_size": (32, 32),
    "audio_size": (128, 32),
    "decoder_dim": 32,
}
SETTINGS |= {"decoder_depth": 1, "decoder_heads": 1}


def saved(content: dict) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def model_file() -> bytes:
    model = build_model("autoencoder", SETTINGS)
    model.reset_parameters()
    return saved({"state_dict": to_published(model.state_dict(), fusion="factorized")})


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``breaks`` lists after how many bytes of the next answers the line goes dead; answers
    are withheld while ``goes_on`` is not set."""

    def __init__(self, handler: type[Handler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.files: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.ranges = True
        self.asked: list[str | None] = []
        self.reached, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.server.reached.set()
        self.server.goes_on.wait(60)
        end = start + self.server.breaks.pop(0) if self.server.breaks else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(running: Server) -> Iterator[None]:
    """The server answers inside the block."""
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("AVTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AVTOOL_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    running = Server()
    with serving(running):
        yield running


def publish(
    server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes, *, known: bool = True, starts: str = ""
) -> None:
    """``content`` as the published weights ``small``."""
    entry = Published(
        base=server.url,
        path="some/where/small.pth",
        size=len(content) if known else None,
        sha256=hashlib.sha256(content).hexdigest() if known else None,
        licence="Licence-1.0",
        content="a small model",
        starts=starts,
    )
    monkeypatch.setitem(PUBLISHED, "small", entry)
    server.files[entry.path] = content


def cache_files() -> list[str]:
    """What is in the cache but for empty locks."""
    root = cached_file("small").parent
    assert all(path.stat().st_size == 0 for path in root.rglob("*.lock"))
    return sorted(path.name for path in root.rglob("*") if path.suffix != ".lock") if root.is_dir() else []


def test_pulled_once_and_used_by_name(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(server, monkeypatch, model_file)
    folder = pull("small")
    said = capsys.readouterr().err
    assert "small: a small model" in said and "licence: Licence-1.0" in said
    assert f"small: {-(-len(model_file) // 2**20)}/{-(-len(model_file) // 2**20)} MiB" in said
    config = read_config(folder)
    assert config.kind == "autoencoder"
    assert config.origin == f"small, Licence-1.0, {server.url}some/where/small.pth"
    assert cache_files() == []  # the download itself is not kept beside what it became
    assert pull("small", offline=True) == folder
    assert len(server.asked) == 1
    assert resolve_checkpoint(Path("small")) == folder
    assert find_model(None) == (folder, "avtool pull")
    assert find_model(Path("small")) == (folder, "--model")
    pull("small", force=True)
    assert len(server.asked) == 2


def test_a_broken_off_download_goes_on(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file)
    server.breaks = [1000, 500]
    pull("small")
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]


def test_the_next_command_goes_on_where_one_gave_up(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file)
    server.breaks = [1000, 0]
    with pytest.raises(CheckpointError, match="1,000 bytes are kept and the same command goes on"):
        pull("small")
    assert cache_files() == ["small.pth.part"]
    pull("small")
    assert server.asked == [None, "bytes=1000-", "bytes=1000-"]
    assert cache_files() == []


def test_a_server_that_sends_no_parts_starts_over(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file)
    server.ranges, server.breaks = False, [1000]
    pull("small")
    assert server.asked == [None, "bytes=1000-"]


def test_a_part_of_another_file_is_thrown_away(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file, known=False)
    cached_file("small").parent.mkdir(parents=True)
    part = cached_file("small").with_name("small.pth.part")
    part.write_bytes(b"x" * (len(model_file) + 9))
    pull("small")
    assert server.asked == [f"bytes={len(model_file) + 9}-", None]
    part.write_bytes(model_file)  # whole, but for its name
    pull("small", force=True)
    assert server.asked[2:] == [f"bytes={len(model_file)}-"]


def test_a_wrong_checksum_is_refused_and_nothing_is_left(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file)
    other = bytearray(model_file)
    other[-1] ^= 1
    server.files["some/where/small.pth"] = bytes(other)
    with pytest.raises(CheckpointError, match=r"small from http://.* has the wrong sha256"):
        pull("small")
    assert cache_files() == [] and not pulled_folder("small").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a Git LFS pointer of 63 bytes",
        ),
        (b"\n<!DOCTYPE html><html>rate limit</html>", "an HTML page of 39 bytes"),
        (b"\x80 something else", "is 16 bytes long, not"),
    ],
)
def test_other_content_is_named(
    content: bytes, words: str, server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file)
    server.files["some/where/small.pth"] = content
    with pytest.raises(CheckpointError, match=words) as caught:
        pull("small")
    assert "http://127.0.0.1" in caught.value.message and "--base-url" in caught.value.hint
    assert cache_files() == []


def test_without_a_network_the_address_and_the_place_are_named(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file)
    place = str(cached_file("small"))
    nowhere = "http://127.0.0.1:9/w"  # the discard port: nothing listens there
    for words, options in (
        ("cannot fetch http://127.0.0.1:9/w/some/where/small.pth: .*refused", {"base_url": nowhere}),
        ("--offline fetches nothing", {"offline": True}),
        ("the server answers 404", {"base_url": server.url + "elsewhere"}),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            pull("small", **options)
        assert "some/where/small.pth" in caught.value.message
        assert place in caught.value.hint and "avtool pull small --offline" in caught.value.hint
    cached_file("small").parent.mkdir(parents=True, exist_ok=True)
    cached_file("small").write_bytes(model_file[:-5])
    with pytest.raises(CheckpointError, match="bytes, small has"):
        pull("small", offline=True)
    cached_file("small").write_bytes(model_file)
    pull("small", offline=True)
    assert cache_files() == ["small.pth"]  # what was put there by hand stays


def test_an_unknown_checksum_is_recorded_at_the_first_download(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = build_model("autoencoder", SETTINGS).encoder
    vits = [
        saved({"model": {**encoder.image.state_dict(), "cls_token": torch.full((1,), x)}}) for x in (0.0, 1.0)
    ]
    publish(server, monkeypatch, vits[0], known=False, starts="init.image")
    with pytest.raises(CheckpointError, match="not in the cache") as caught:
        find_starting_weights("init.image", "small")
    assert "(1) avtool pull small" in caught.value.hint and "init.image=none" in caught.value.hint
    assert server.asked == []  # pretraining fetches nothing by itself
    folder = pull("small")
    assert hashlib.sha256(vits[0]).hexdigest() in capsys.readouterr().err
    assert find_starting_weights("init.image", "small") == folder
    weights.load_vit(encoder.image, folder)
    pull("small", force=True)
    server.files["some/where/small.pth"] = vits[1]
    with pytest.raises(CheckpointError, match="wrong sha256"):
        pull("small", force=True)
    with pytest.raises(UsageError, match="no model given"):
        find_model(None)  # a starting point is no model


def test_the_command(server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(server, monkeypatch, model_file)
    monkeypatch.setenv("AVTOOL_WEIGHTS_URL", server.url)
    run = CliRunner().invoke
    listed = json.loads(run(app, ["pull", "--list", "--json"]).stdout)["weights"]
    assert [row["name"] for row in listed][:2] == ["deepavfusion-vggsound", "deepavfusion-audioset"]
    assert listed[0]["bytes"] == 1_282_543_933 and listed[0]["pulled"] is None
    assert listed[0]["url"].endswith(
        "main/checkpoints/deepavfusion_vitb_vggsound_ep200/checkpoints/checkpoint_latest.pth"
    )
    assert "no task head" in listed[0]["content"] and "NC" in listed[3]["licence"]
    done = run(app, ["pull", "small"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{pulled_folder('small')}\n"
    assert "avtool localize CLIP --model small" in done.stderr
    assert "small (" in run(app, ["pull", "--list"]).stdout
    unknown = run(app, ["pull", "smaller"])
    assert unknown.exit_code == 2 and "deepavfusion-vggsound" in unknown.stderr
    assert run(app, ["pull"]).exit_code == 2
    assert run(app, ["pull", "mae-vitb", "--base-url", "file:///etc"]).exit_code == 2


def test_a_server_that_never_answers_is_given_up(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file)
    monkeypatch.setattr(downloading, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(CheckpointError, match="timed out"):
        pull("small", base_url=f"http://127.0.0.1:{deaf.getsockname()[1]}")


PULL = """
import json, sys
from avtool.published import PUBLISHED, Published
PUBLISHED["small"] = Published(**json.loads(sys.argv[1]))
sys.argv[1:] = ["pull", "small"]
from avtool.cli import main
main()
"""


def start_pull() -> subprocess.Popen[str]:
    """``avtool pull small`` in a process of its own."""
    command = [sys.executable, "-c", PULL, json.dumps(asdict(PUBLISHED["small"]))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_second_pull_waits_and_takes_what_the_first_has_made(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, model_file)
    server.goes_on.clear()
    with start_pull() as first:
        assert server.reached.wait(60)
        with start_pull() as second:
            assert second.stderr.readline() == "small: waiting for another process that is fetching it\n"
            server.goes_on.set()
            done = [process.communicate(timeout=60) for process in (first, second)]
            assert [process.returncode for process in (first, second)] == [0, 0], done
    assert [stdout for stdout, _ in done] == [f"{pulled_folder('small')}\n"] * 2
    assert server.asked == [None]
    assert cache_files() == []


def test_a_pull_that_was_killed_keeps_nobody_waiting(
    server: Server, model_file: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(server, monkeypatch, model_file)
    server.goes_on.clear()
    with start_pull() as first:
        assert server.reached.wait(60)
        first.kill()
    server.goes_on.set()
    assert cached_file("small").with_name("small.pth.lock").exists()
    pull("small")
    assert "waiting" not in capsys.readouterr().err
    assert cache_files() == []


def test_a_lock_is_held_by_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(downloading, "POLL", 0.001)
    target, inside, together = tmp_path / "new" / "file", [0], []

    def work() -> None:
        for _ in range(20):
            with only_one(target, what="file"):
                inside[0] += 1
                time.sleep(0.001)
                together.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1] * 80
    assert "file: waiting for another process that is fetching it\n" in capsys.readouterr().err
    assert {path.name for path in target.parent.iterdir()} <= {"file.lock"}


def failing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """No lock can be taken, for the reason ``code``."""

    def refuse(path: Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(downloading, "take_lock", refuse)


def test_a_cache_that_cannot_be_written_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in (errno.EACCES, errno.EROFS):
        failing(monkeypatch, code)
        with only_one(tmp_path / "file", what="file"):
            pass


def test_a_cache_on_a_disk_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, errno.ENOLCK)
    held = only_one(tmp_path / "file", what="file")
    with pytest.raises(CheckpointError, match=r"cannot lock .*file\.lock: No locks") as caught, held:
        raise AssertionError("it goes on without a lock")
    assert caught.value.hint == "set AVTOOL_CACHE to a folder on a local disk"
