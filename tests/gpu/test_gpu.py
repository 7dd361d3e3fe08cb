"""The GPU proof on a CPU, at tiny size; and as it is meant to run, where there is a GPU (``-m proof``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.gpu import proof
from tests.gpu.checks import CLIPS, SIZES, Lab

CPU, TINY, HAS_GPU = torch.device("cpu"), SIZES["tiny"], torch.cuda.is_available()
SECTIONS = list(dict.fromkeys(section for section, _, _ in proof.every_check(TINY)))


@pytest.fixture(scope="module")
def lab(synth: Callable[[int], Path]) -> Lab:
    return Lab(CPU, TINY, synth(CLIPS))


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # see avtool.replicas; pytest forgets it
def test_a_section_passes_on_a_cpu(section: str, lab: Lab) -> None:
    rows = proof.prove(lab, only=section)
    assert rows and {row["status"] for row in rows} <= {"pass", "note"}, rows


@pytest.mark.proof
@pytest.mark.skipif(not HAS_GPU, reason="no GPU here")
def test_everything_passes_on_a_gpu(tmp_path: Path) -> None:
    assert proof.main(["--out", str(tmp_path)]) == 0


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        proof.main([])
    assert "--device cpu" in capsys.readouterr().err


def test_what_is_left_when_the_time_is_up_is_unrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "prepare", lambda *_, **__: None)
    assert proof.main(["--device=cpu", "--size=tiny", "--minutes=0", f"--out={tmp_path}"]) == 3
    rows = json.loads((tmp_path / "proof.json").read_text(), parse_constant=pytest.fail)
    assert len(rows) == len((tmp_path / "proof.txt").read_text().splitlines())
    assert {row["status"] for row in rows} == {"unrun"} and {row["section"] for row in rows} == {*SECTIONS}
