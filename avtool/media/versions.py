"""The versions of the libraries that read clips."""

from __future__ import annotations

from collections.abc import Mapping

import av
import cv2
import numpy as np

Tools = Mapping[str, str]
"""Tool: its version; empty where nobody noted them."""
_NAMES = {"av": "PyAV", "ffmpeg": "FFmpeg", "opencv": "OpenCV", "numpy": "numpy"}


def tool_versions() -> dict[str, str]:
    """Those of this process."""
    return {
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def tools_in_words(tools: Tools, *, other_than: Tools | None = None) -> str:
    """ "PyAV 18.1.0, OpenCV 5.0.0": all of them, or those that are not as in ``other_than``."""
    shown = {name: version for name, version in tools.items() if (other_than or {}).get(name) != version}
    words = [f"{_NAMES.get(name, name)} {version}" for name, version in shown.items()]
    return ", ".join(words) or "unknown versions"
