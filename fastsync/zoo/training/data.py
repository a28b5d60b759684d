"""The data stage: wide procedural pictures, painted once and kept as one memory-mapped file."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from fastsync.files import replacing
from fastsync.zoo import scenes
from fastsync.zoo.training.run import Run

WIDTH = 384  # a training picture is three windows wide
HELD_OUT = 2**40  # seeds from here on are never trained on
_CHUNK = 16


def draw_scenes(count: int, rng: np.random.Generator, held_out: bool = False) -> list[scenes.Scene]:
    """Scenes of the generator's own distribution; the seeds of held-out ones are disjoint from all others."""
    drawn = [scenes.sample_scene(rng) for _ in range(count)]
    if held_out:
        drawn = [scenes.Scene(s.place, s.time, s.weather, s.season, HELD_OUT + s.seed) for s in drawn]
    return drawn


def held_out_windows(
    count: int, seed: int, pixels: int = 128
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[scenes.Scene]]:
    """Windows that no training saw: uint8 [count, pixels, pixels, 3], labels int64 [count, 3], and their scenes."""
    drawn = draw_scenes(count, np.random.default_rng([seed, 7]), held_out=True)
    images = np.stack([scenes.render(scene, pixels, pixels) for scene in drawn])
    return images, np.array([scenes.label(scene) for scene in drawn]), drawn


def paint(run: Run, count: int = 12_000, workers: int = 2) -> None:
    """Fills `scenes.bin` (uint8 [count, pixels, WIDTH, 3]) and `scenes.json`; nothing to do where both exist."""
    if run.resume and (run.work / "scenes.json").is_file():
        return
    width, height = WIDTH * run.size.pixels // 128, run.size.pixels
    drawn = draw_scenes(count, run.draws(1))
    chunks = [(drawn[i : i + _CHUNK], width, height) for i in range(0, count, _CHUNK)]

    with replacing(run.work / "scenes.bin") as path:
        images = np.memmap(path, np.uint8, "w+", shape=(count, height, width, 3))
        with tqdm(total=count, desc="data", unit="picture", disable=not run.progress, mininterval=5) as bar:
            for index, block in enumerate(_rendered(chunks, workers)):
                images[index * _CHUNK : index * _CHUNK + len(block)] = block
                bar.update(len(block))
        images.flush()

    table = {"width": width, "height": height, "scenes": [asdict(scene) for scene in drawn]}
    with replacing(run.work / "scenes.json") as path:
        path.write_text(json.dumps(table))


def _rendered(chunks: list[tuple[list[scenes.Scene], int, int]], workers: int) -> Iterator[NDArray[np.uint8]]:
    if workers < 2:
        yield from map(_render, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_render, chunks)


def _render(chunk: tuple[list[scenes.Scene], int, int]) -> NDArray[np.uint8]:
    drawn, width, height = chunk
    return np.stack([scenes.render(scene, width, height) for scene in drawn])


class Pictures:
    """The painted pictures of a run and random crops of them."""

    def __init__(self, run: Run) -> None:
        index = json.loads((run.work / "scenes.json").read_text())
        self.scenes = [scenes.Scene(**fields) for fields in index["scenes"]]
        self.labels = np.array([scenes.label(scene) for scene in self.scenes])
        shape = (len(self.scenes), index["height"], index["width"], 3)
        self.images = np.memmap(run.work / "scenes.bin", np.uint8, "r", shape=shape)
        self._run = run

    def crops(self, rows: NDArray[np.int64], height: int, width: int, rng: np.random.Generator) -> torch.Tensor:
        """A random crop of each named picture, half mirrored: float32 [len(rows), 3, height, width] in [0, 1]."""
        _, full_height, full_width, _ = self.images.shape
        tops = rng.integers(full_height - height + 1, size=len(rows))
        lefts = rng.integers(full_width - width + 1, size=len(rows))
        mirrored = rng.random(len(rows)) < 0.5
        out = np.empty((len(rows), height, width, 3), np.uint8)
        for k, (row, top, left) in enumerate(zip(rows, tops, lefts, strict=True)):
            crop = self.images[row, top : top + height, left : left + width]
            out[k] = crop[:, ::-1] if mirrored[k] else crop
        return self._run.to_device(out).permute(0, 3, 1, 2).float().div_(255.0).contiguous()
