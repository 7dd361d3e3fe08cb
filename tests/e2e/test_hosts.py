"""Two hosts, of which one is lost: network namespaces stand in for them, so that root and ``ip`` are needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from avtool.data.prepare import prepare
from avtool.places import checkpoints_of
from avtool.weight_files import read_safetensors

STEPS = 40
SMALL = (
    "train.batch_size=8", "train.save_every=5", "train.log_every=1", "train.precision=float32", "data.workers=0",
    "model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=24", "model.depth=2",
    "model.decoder={dim: 16, depth: 1, heads: 2}", "train.accumulate=1", f"max_steps={STEPS}",
)  # fmt: skip
HOSTS = {"avtool-one": ("avtool-v1", "10.77.13.1"), "avtool-two": ("avtool-v2", "10.77.13.2")}
FIRST = "avtool-one"
"""Where the rendezvous is."""


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two network namespaces with a cable between them."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and ip")
    (one, two), (first, second) = HOSTS, [interface for interface, _ in HOSTS.values()]
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", first, "netns", one, "type", "veth", "peer", "name", second, "netns", two)
        for host, (interface, address) in HOSTS.items():
            ip("-n", host, "address", "add", f"{address}/24", "dev", interface)
            ip("-n", host, "link", "set", interface, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            ip("netns", "delete", host, check=False)


def torchrun(host: str, data: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    interface, address = HOSTS[host]
    rendezvous = f"is_host={int(host == FIRST)},last_call_timeout=20,keep_alive_interval=1"
    command = [
        "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2",
        "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=10.77.13.1:29400", "--rdzv-id=job",
        f"--rdzv-conf={rendezvous}", f"--local-addr={address}", "--max-restarts=5",
        "-m", "avtool", "pretrain", "--recipe", "tiny", *SMALL, "--data", str(data), "--out", str(out),
        "--threads", "1", "--resume",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


def end_host(host: str) -> None:
    """All of its processes at once, as where its power goes; its network stays."""
    there = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True)
    for process in there.stdout.split():
        os.kill(int(process), signal.SIGKILL)


@pytest.mark.proof
def test_a_job_goes_on_where_a_host_is_lost(hosts: None, tmp_path: Path) -> None:
    data, out, whole = (tmp_path / name for name in ("data", "out", "whole"))
    prepare("synth", out=data, clips=20, seed=0)
    jobs = [torchrun(host, data, out, tmp_path / host) for host in HOSTS]
    try:
        while not checkpoints_of(out):
            assert jobs[0].poll() is None, (tmp_path / "avtool-one").read_text()
            time.sleep(0.05)
        end_host("avtool-two")
        assert jobs[0].wait(timeout=400) == 0, (tmp_path / "avtool-one").read_text()
    finally:
        for host in HOSTS:
            end_host(host)
        for job in jobs:
            job.wait()
    said = (tmp_path / "avtool-one").read_text()
    assert "begun by 4 processes, goes on with 2" in said
    assert checkpoints_of(out)[-1].name == f"step-{STEPS:08}"
    command = ["-m", "avtool", "pretrain", "--recipe", "tiny", *SMALL, "--data", data, "--out", whole]
    subprocess.run([sys.executable, *command, "--threads", "1"], check=True, capture_output=True)
    ours, theirs = (read_safetensors(checkpoints_of(run)[-1] / "model.safetensors") for run in (out, whole))
    for name, value in theirs.items():
        allowed = torch.full_like(value, 1e-5)
        if name.endswith(
            "qkv.bias"
        ):  # a key's bias changes no weight of attention: Adam follows rounding alone
            allowed.view(3, -1)[1] = 1e-4
        assert ((ours[name] - value).abs() <= allowed + 1e-5 * value.abs()).all(), name
