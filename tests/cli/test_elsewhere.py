"""Commands that only look work on a system that is no Unix, which is pretended here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ELSEWHERE = """
import asyncio, multiprocessing, os, rich.console, signal, sys
from multiprocessing import resource_tracker
import {knowing}  # these know which system they are on
multiprocessing.get_all_start_methods = lambda: ["spawn"]
resource_tracker._HAVE_SIGMASK = False
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
alarms = ("SIGALRM", "SIGCHLD", "SIGHUP", "pthread_sigmask", "setitimer")
for home, names in ((os, ("fork", "pread", "sched_getaffinity")), (signal, alarms)):
    for name in names:
        if hasattr(home, name):
            delattr(home, name)
for module in {modules}:
    __import__(module)
if sys.argv[1:]:
    from avtool.cli import main
    main()
"""


HEAVY = "av, cv2, timm, torch, torchvision"


def elsewhere(folder: Path, *args: str, knowing: str = HEAVY, modules: tuple[str, ...] = ("avtool",)) -> str:
    """What ``avtool ARGS`` prints there, after it has imported ``modules``."""
    code = ELSEWHERE.format(modules=modules, knowing=knowing)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {root!r})\n{code}", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_that_only_look(tmp_path: Path) -> None:
    assert "Usage: avtool" in elsewhere(tmp_path, "--help", knowing="yaml")
    assert "avtool pretrain --recipe tiny" in elsewhere(tmp_path, "recipes", "ls", knowing="yaml")
    assert "avtool demo" in elsewhere(tmp_path, "doctor")


def test_every_module_is_imported(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    names = [path.relative_to(root).with_suffix("").parts for path in (root / "avtool").rglob("*.py")]
    modules = sorted(".".join(parts).removesuffix(".__init__") for parts in names if parts[-1] != "__main__")
    modules.remove("avtool.serve.app")  # all of it is of an extra
    assert len(modules) > 100
    elsewhere(tmp_path, modules=tuple(modules))


def test_prepare_and_inspect(tmp_path: Path) -> None:
    elsewhere(tmp_path, "prepare", "synth", "--clips", "4", "--jobs", "1", "--out", "out")
    assert '"name": "synth"' in elsewhere(tmp_path, "inspect", "out", "--json")
