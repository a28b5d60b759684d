"""`python -m fastsync.zoo.evaluate NAME`: does a generated window show what its prompt names?"""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from fastsync import zoo
from fastsync.files import replacing
from fastsync.zoo import glyphs, scenes
from fastsync.zoo.classifier import Classifier, GlyphClassifier, SceneClassifier

_SHEET_COLUMNS = 16


def named_prompts(count: int, seed: int = 0) -> tuple[list[str], list[scenes.Scene]]:
    """Captions that name place and time, all pairs of them equally often, with the scenes they describe."""
    rng = np.random.default_rng([seed, 11])
    texts, drawn = [], []
    pairs = [(place, moment) for place in scenes.PLACES for moment in scenes.TIMES]
    for k in range(count):
        place, moment = pairs[k % len(pairs)]
        scene = scenes.sample_scene(rng)
        while (scene.place, scene.time) != (place, moment):
            scene = scenes.sample_scene(rng)
        text = scenes.caption(scene, rng)
        while not names_time(text, moment):
            text = scenes.caption(scene, rng)
        texts.append(text)
        drawn.append(scene)
    return texts, drawn


def names_time(text: str, moment: str) -> bool:
    """Whether a caption of the grammar names that time of day."""
    from fastsync.zoo.scenes.captions import TIME_WORDS

    padded = f" {text} "
    return any(f" {words} " in padded for group in TIME_WORDS[moment] for words in group)


@torch.no_grad()
def generate(
    pipeline: Any, prompts: list[str], steps: int = 30, guidance: float = 3.0, seed: int = 0, batch: int = 16,
    progress: bool = True,
) -> NDArray[np.float32]:  # fmt: skip
    """One window a prompt, each with a seed of its own: float32 [len(prompts), H, W, 3] in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for first in tqdm(range(0, len(prompts), batch), desc="windows", unit="batch", disable=not progress):
        texts = prompts[first : first + batch]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + first + k) for k in range(len(texts))]
        parts.append(
            pipeline(
                texts, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
            ).images
        )
    return np.concatenate(parts).astype(np.float32)


def named_characters(count: int, seed: int = 0) -> tuple[list[str], list[glyphs.Glyph]]:
    """Captions of glyphs, all characters equally often, with the glyphs that they describe."""
    rng = np.random.default_rng([seed, 11])
    drawn = [glyphs.sample_glyph(rng, glyphs.CHARACTERS[k % len(glyphs.CHARACTERS)]) for k in range(count)]
    return [glyphs.caption(glyph, rng) for glyph in drawn], drawn


@torch.no_grad()
def generate_pixels(
    pipeline: Any, prompts: list[str], steps: int = 30, guidance: float = 3.0, seed: int = 0, batch: int = 32,
    progress: bool = True,
) -> NDArray[np.float32]:  # fmt: skip
    """As `generate`, for a pixel-space pipeline (`IFPipeline`), with deterministic steps, as methods take them."""
    from fastsync import DeepFloydPrior, Independent, WideCanvas, sample

    prior, parts = DeepFloydPrior(pipeline), []
    _, h, w = prior.view_shape
    for first in tqdm(range(0, len(prompts), batch), desc="windows", unit="batch", disable=not progress):
        texts = prompts[first : first + batch]
        draws = [torch.Generator().manual_seed(seed * 1_000_003 + first + k) for k in range(len(texts))]
        cond, uncond = prior.encode_prompt(texts)
        views = sample(
            prior,
            WideCanvas((h, w * len(texts)), (h, w), w),
            Independent(),
            cond=cond,
            uncond=uncond,
            guidance_scale=guidance,
            num_inference_steps=steps,
            latents=torch.cat([torch.randn(1, *prior.view_shape, generator=draw) for draw in draws]),
        ).views
        parts.append((views.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1).numpy())
    return np.concatenate(parts).astype(np.float32)


def judge(classifier: Classifier, images: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Shares of pictures in which the classifier finds what is labelled, by head, with the usual confusions.

    `images` float [N, H, W, 3] in [0, 1]; `labels` int64 [N, heads] in the order of the classifier's heads.
    """
    found = classifier.classify(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float())
    report: dict[str, Any] = {}
    for column, (name, classes) in enumerate(classifier.classes.items()):
        guess, truth = found[name].numpy(), labels[:, column]
        report[name] = float((guess == truth).mean())
        wrong: dict[str, int] = {}
        for right, seen in zip(truth[guess != truth], guess[guess != truth], strict=True):
            key = f"{classes[right]} seen as {classes[seen]}"
            wrong[key] = wrong.get(key, 0) + 1
        report[f"{name}_confusions"] = dict(sorted(wrong.items(), key=lambda item: -item[1]))
    return report


def evaluate(
    pipeline: Any,
    classifier: Classifier,
    windows: int = 256,
    steps: int = 30,
    guidance: float = 3.0,
    seed: int = 0,
    real: int = 512,
    progress: bool = True,
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The report on `windows` generated and `real` held-out procedural pictures, and the generated ones."""
    started = time.monotonic()
    labels: list[Any]
    if classifier.prior == "scenes":
        from fastsync.zoo.training.data import held_out_windows

        pixels, real_labels, _ = held_out_windows(real, seed)
        prompts, places = named_prompts(windows, seed)
        images, labels = (
            generate(pipeline, prompts, steps, guidance, seed, progress=progress),
            [*map(scenes.label, places)],
        )
    else:
        from fastsync.zoo.training.glyphs import held_out_glyphs

        pixels, held_out = held_out_glyphs(real, seed)
        real_labels = np.array([[glyphs.CHARACTERS.index(glyph.character)] for glyph in held_out])
        prompts, drawn = named_characters(windows, seed)
        images = generate_pixels(pipeline, prompts, steps, guidance, seed, progress=progress)
        labels = [[glyphs.CHARACTERS.index(glyph.character)] for glyph in drawn]
    report = {
        "windows": windows,
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "generated": judge(classifier, images, np.array(labels)),
        "real": {"windows": real, **judge(classifier, pixels.astype(np.float32) / 255.0, real_labels)},
    }
    return report, images


def sheet(images: NDArray[np.float32], columns: int = _SHEET_COLUMNS) -> Image.Image:
    """A contact sheet of windows, float [N, H, W, 3] in [0, 1], row by row."""
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = np.zeros((rows * columns, height, width, 3), np.uint8)
    canvas[:count] = np.clip(images * 255.0 + 0.5, 0, 255).astype(np.uint8)
    grid = canvas.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(rows * height, columns * width, 3))


def main(
    name: Annotated[str, typer.Argument(help="The prior to evaluate.")] = "scenes",
    windows: Annotated[int, typer.Option(help="Generated pictures.")] = 256,
    real: Annotated[int, typer.Option(help="Held-out procedural pictures.")] = 512,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 30,
    guidance: Annotated[float | None, typer.Option(help="Scale of guidance; default: the prior's own.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of prompts and noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    folder: Annotated[Path | None, typer.Option(help="Folder with NAME and NAME-classifier; default: the zoo.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Report (JSON); default: print.")] = None,
    picture: Annotated[Path | None, typer.Option("--sheet", help="Contact sheet (PNG).")] = None,
) -> None:
    """Generate pictures from prompts that name what they show, and let the prior's classifier judge them."""
    from diffusers import DiffusionPipeline

    for target in (output, picture):
        if target is not None and not target.resolve().parent.is_dir():
            raise typer.BadParameter(f"{target} cannot be written: there is no folder {target.resolve().parent}.")
    if guidance is None:
        guidance = zoo.guidance_scale(name)
    source = zoo.path(name) if folder is None else str(folder / name)
    pipeline = DiffusionPipeline.from_pretrained(source).to(device, torch.float32)
    judges: dict[str, type[Classifier]] = {"scenes": SceneClassifier, "glyphs": GlyphClassifier}
    classifier = judges[name].load(None if folder is None else folder / f"{name}-classifier")
    report, images = evaluate(pipeline, classifier, windows, steps, guidance, seed, real)
    report["weights"] = zoo.fingerprint(name) if folder is None else None
    report["versions"] = {package: version(package) for package in ("fastsync", "torch", "diffusers", "transformers")}
    report["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    text = json.dumps(report, indent=2)
    if output is None:
        print(text)
    else:
        with replacing(output) as temporary:
            temporary.write_text(text + "\n")
    if picture is not None:
        with replacing(picture) as temporary:
            sheet(images).save(temporary)


if __name__ == "__main__":
    typer.run(main)
