"""Cluttered backgrounds that say nothing about the objects: hills, a room, soft lights, shards, a quilt."""

import cv2
import numpy as np

from avtool.data.synth.objects import PALETTE


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A picture to put objects on: float32 (size, size, 3), RGB in 0..1."""
    tones = PALETTE[rng.permutation(len(PALETTE))[:4]]
    grey = tones.mean(1, keepdims=True)
    tones = grey + (tones - grey) * rng.uniform(0.5, 0.9)  # muted
    tones = tones + (rng.uniform(0.62, 0.95) - tones) * rng.uniform(0.4, 0.6)  # of low contrast
    style = (_hills, _room, _lights, _shards, _quilt)[int(rng.integers(5))]
    board = style(rng, 2 * size, tones.astype(np.float32))
    _clutter(board, rng, tones)
    board = cv2.resize(board, (size, size), interpolation=cv2.INTER_AREA)
    y, x = (part.astype(np.float32) / size for part in np.ogrid[0:size, 0:size])
    cx, cy = rng.uniform(0.3, 0.7, 2)
    light = 1.06 - 0.24 * ((x - cx) ** 2 + (y - cy) ** 2)  # a pool of it, with darker corners
    noise = (rng.normal(size=(n, n)).astype(np.float32) for n in (6, 20, 60))
    blotches = [cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC) for coarse in noise]
    grain = 0.008 * np.sum(blotches, axis=0)
    return np.clip(board * cv2.merge([light] * 3) + cv2.merge([grain] * 3), 0, 1)


def _ramp(size: int, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """A board with one colour at its top that turns into another: float32 (size, size, 3)."""
    part = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    return cv2.repeat((top * (1 - part) + bottom * part).astype(np.float32), 1, size)


def _hills(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0] * 1.05, tones[0] * 0.5 + 0.5)
    sun = (rng.uniform(0.1, 0.9, 2) * (size, 0.45 * size)).astype(int).tolist()
    cv2.circle(board, sun, int(size * rng.uniform(0.05, 0.1)), (1.0, 0.97, 0.85), -1)
    x = np.arange(0, size + 8, 8)
    for j, level in enumerate(np.linspace(rng.uniform(0.3, 0.5), 0.85, 4)):
        waves = sum(np.sin(x / size * rng.uniform(3, 14) + rng.uniform(0, 6)) / n for n in (1, 2, 3))
        y = size * (level + 0.05 * waves)
        tone = tones[1 + j % 3] * (1.06 - 0.1 * j)
        hill = np.concatenate([np.stack([x, y], 1), [(size, size), (0, size)]]).astype(np.int32)
        cv2.fillPoly(board, [hill], tone.tolist())
        for tree in rng.integers(0, len(x), 5):
            high = int(size * rng.uniform(0.02, 0.05))
            crown = (int(x[tree]), int(y[tree]) - high // 2), (max(2, high // 3), high)
            cv2.ellipse(board, *crown, 0, 0, 360, (tone * 0.9).tolist(), -1)
    return board


def _room(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0] * 1.04, tones[0] * 0.94)
    floor, step = int(size * rng.uniform(0.58, 0.78)), int(size * rng.uniform(0.06, 0.12))
    striped = tones[0, 0] > tones[0, 1]
    for x in range(int(rng.integers(step)), size, step):
        if striped:
            board[: floor + 1, x : x + step // 2 + 1] = tones[0] * 0.96
        else:
            for y in range((x // step) % 2 * step // 2, floor, step):
                cv2.circle(board, (x, y), step // 6, (tones[0] * 0.92).tolist(), -1)
    for _ in range(3):  # pictures
        x, y = rng.uniform(0, 0.8, 2) * (size, floor)
        w, h = rng.uniform(0.1, 0.24, 2) * size
        left, top, right, bottom = int(x), int(y), int(x + w) + 1, int(y + h) + 1
        board[top:bottom, left:right] = tones[3] * 0.7
        board[top + 6 : bottom - 6, left + 6 : right - 6] = tones[2] * 1.05
    board[floor:] = _ramp(size, tones[1] * 0.8, tones[1] * 1.05)[: size - floor]
    for x in np.linspace(-0.8, 1.8, 14):
        away = int(size * (0.5 + (x - 0.5) * 0.55))
        cv2.line(board, (away, floor), (int(size * x), size), (tones[1] * 0.72).tolist(), 2)
    board[floor - 8 : floor + 1] = tones[0] * 0.6 + 0.35
    return board


def _lights(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0] * 0.85, tones[1])
    for _ in range(34):
        radius = int(size * rng.uniform(0.02, 0.11))
        x, y = rng.uniform(0, size, 2).astype(int).tolist()
        tone = np.clip(tones[rng.integers(4)] * rng.uniform(1, 1.3), 0, 1)
        left, top = max(0, x - radius - 2), max(0, y - radius - 2)
        near = board[top : y + radius + 3, left : x + radius + 3]
        layer = near.copy()
        cv2.circle(layer, (x - left, y - top), radius, tone.tolist(), -1)
        near += (layer - near) * rng.uniform(0.25, 0.6)
    return board


def _shards(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0], tones[1])
    count = int(rng.integers(4, 7))
    grid = np.stack(np.meshgrid(*[np.linspace(-0.1, 1.1, count + 1)] * 2), -1)
    grid = ((grid + rng.uniform(-0.07, 0.07, grid.shape)) * size).astype(np.int32)
    for row, column in np.ndindex(count, count):
        a, b, d, c = grid[row : row + 2, column : column + 2].reshape(4, 2)
        for corners in ((a, b, c), (a, c, d)):
            tone = np.clip(tones[rng.integers(4)] * rng.uniform(0.88, 1.08), 0, 1)
            cv2.fillPoly(board, [np.stack(corners)], tone.tolist())
    return board


def _quilt(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0], tones[0])
    turn, pitch = rng.uniform(0, np.pi), size * rng.uniform(0.08, 0.2)
    along, across = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    wave = np.linspace(-1, 1, 40)[:, None]
    for j in range(-14, 15):
        edge = size / 2 + along * wave * size + across * (j * pitch + 0.3 * pitch * np.sin(wave * 9))
        thick = max(1, int(pitch * (0.5 if j % 2 else 0.18)))
        cv2.polylines(board, [edge.astype(np.int32)], False, tones[1 + j % 3].tolist(), thick)
    return board


def _clutter(board: np.ndarray, rng: np.random.Generator, tones: np.ndarray) -> None:
    """Pebbles, leaves and chips in the background's own tones."""
    size = len(board)
    for _ in range(int(rng.integers(8, 26))):
        (x, y), long = rng.uniform(0, size, 2).astype(int).tolist(), size * rng.uniform(0.012, 0.045)
        tone = np.clip(tones[rng.integers(4)] * rng.uniform(0.72, 1.2), 0, 1)
        coats = (3, board[y, x] * 0.8), (0, tone)  # the shadow, then the thing itself
        turn, corners = rng.uniform(0, 360), int(rng.integers(3, 6))
        if rng.random() < 0.5:
            axes = int(long) + 1, int(long * rng.uniform(0.4, 1)) + 1
            for move, colour in coats:
                cv2.ellipse(board, (x + move, y + move), axes, turn, 0, 360, colour.tolist(), -1)
        else:
            angle = np.deg2rad(turn) + np.arange(corners) * 2 * np.pi / corners
            shape = (x, y) + 1.2 * long * np.stack([np.cos(angle), np.sin(angle)], 1)
            for move, colour in coats:
                cv2.fillPoly(board, [(shape + move).astype(np.int32)], colour.tolist())
