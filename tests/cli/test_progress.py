"""Progress bars: sparse lines in a log, one live line of at most 80 columns on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from avtool import progress

DRAW = """
import time
from avtool.progress import progress_bar, say
with progress_bar("pretrain", total=64000, unit="samples") as bar:
    for step in range(8):
        time.sleep(0.1)
        bar.advance(8000, loss="0.812", wait="3%")
    say("saved a checkpoint")
"""


def test_a_log_gets_few_lines_and_one_at_the_end(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress_bar("pretrain", total=100, unit="steps", start=20) as bar:
        for step in range(60):
            now[0] += 0.25
            bar.advance(1, loss=f"{step / 10:.1f}")
    assert capsys.readouterr().err.splitlines() == [
        "pretrain: 60/100 steps, 4.0 steps/s, loss 3.9, 0:10 left",
        "pretrain: 80/100 steps, 4.0 steps/s, loss 5.9, 0:15 in all",
    ]


def test_a_brief_bar_is_silent_unless_it_takes_long(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for seconds, lines in ((1, 0), (11, 2)):
        with progress.progress_bar("evaluating", total=2, unit="samples", brief=True) as bar:
            now[0] += seconds
            bar.advance(2)
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_the_end_is_told_where_the_work_is_broken_off(capsys) -> None:
    with pytest.raises(ZeroDivisionError), progress.progress_bar("prepare", total=None, unit="clips") as bar:
        bar.advance(3)
        raise ZeroDivisionError
    assert capsys.readouterr().err.startswith("prepare: 3 clips, ")


def test_a_terminal_gets_a_live_bar_within_80_columns() -> None:
    reader, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    process = subprocess.Popen([sys.executable, "-c", DRAW], stderr=terminal, env=environment)
    os.close(terminal)
    drawn = bytearray()
    try:
        while block := os.read(reader, 4096):
            drawn += block
    except OSError:  # Linux says so when the other side is closed
        pass
    assert process.wait() == 0
    os.close(reader)
    lines = (
        bytes(drawn).decode().replace("\x1b[2K", "").replace("\x1b[1A", "").replace("\r", "\n").split("\n")
    )
    bars = [line for line in lines if line.startswith("pretrain")]
    assert "64000/64000" in bars[-1]
    assert "samples/s" in bars[-1]
    assert "loss 0.812 wait 3%" in bars[-1]
    assert max(map(len, bars)) <= 80
    assert any(line.startswith("saved a checkpoint") for line in lines)
