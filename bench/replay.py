"""What a probed prior costs beside its network: probing, and each evaluation's replay of the pipeline's own call.

    python -m bench.replay [--turns 5] [--output FILE]

CPU seconds of one thread. ``ratio`` is an evaluation by the prior relative to the bare network with the same arguments,
taken in turns; ``overhead`` is the same difference without the noise of the network, whose recorded answer stands in
its place, and ``share`` its part of an evaluation. The network is Stable Diffusion 1.5's, with random weights, in
float32, one row of 64x64 cells; and that of the embedded prior ``scenes``, whose probe is timed too.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import diffusers
import torch
import typer
from torch import Tensor

import fastsync as fs
from bench.machine import RESULTS, describe, write_json
from bench.models import BUILDERS
from fastsync.conditions import Conditions
from fastsync.priors import ViewRequest
from fastsync.priors.probed import ProbedPrior

CALLS = 500  # of a replay without its network


class Answer:
    """Stands for a network: what it answered once."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._answer


class Linear:
    """The least network whose answer depends on its states: the way back through it is the replay's."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (0.1 * x,)


def stable_diffusion() -> tuple[Any, dict[str, Any]]:
    """A pipeline of the size of Stable Diffusion 1.5 with a small autoencoder, and its embeddings."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = diffusers.AutoencoderKL(**blocks, block_out_channels=(32,) * 4)
    pipe = diffusers.StableDiffusionPipeline(
        unet=BUILDERS["SD 1.5"]().eval(), vae=vae.eval(), scheduler=diffusers.DDIMScheduler(clip_sample=False),
        text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe, {name: torch.randn(1, 77, 768) for name in ("prompt_embeds", "negative_prompt_embeds")}


class Evaluation:
    """One row of a prior, and the bare network with the arguments that it hands over."""

    def __init__(self, prior: ProbedPrior, cond: Conditions, t: Tensor) -> None:
        self.prior, self.cond, self.t = prior, cond.select([0]), t[:1]
        self.x = torch.randn(1, *prior.view_shape, generator=torch.Generator().manual_seed(0))
        self.network = prior.pipe.unet.requires_grad_(False)
        self.asked: tuple[Any, Any] = ((), {})
        hook = self.network.register_forward_pre_hook(self._note, with_kwargs=True)
        with torch.no_grad():
            prior.network(self.x, self.t, self.cond)
            hook.remove()
            self.answer = self.network(*self.asked[0], **self.asked[1])

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        self.asked = args, kwargs

    def replayed(self, gradient: bool) -> Any:
        return self._back(lambda x: self.prior.network(x, self.t, self.cond), gradient)

    def bare(self, gradient: bool) -> Any:
        args, kwargs = self.asked
        return self._back(lambda x: self.network(x, *args[1:], **kwargs)[0], gradient)

    def _back(self, ask: Callable[[Tensor], Tensor], gradient: bool) -> Any:
        x = self.x.detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            raw = ask(x)
            return torch.autograd.grad(raw, x, raw.detach())[0] if gradient else raw

    def overhead(self, gradient: bool) -> float:
        """CPU seconds of a replay whose network takes no time, beside those of that network alone."""
        own, shadow = self.prior.pipe, copy.copy(self.prior.pipe)
        network: Any = Linear() if gradient else Answer(self.answer)
        vars(shadow)["unet"] = network
        self.prior.pipe = shadow
        try:
            replayed = min(_cpu_seconds(lambda: self.replayed(gradient), CALLS) for _ in range(3))
            alone = min(_cpu_seconds(lambda: self._back(lambda x: network(x)[0], gradient), CALLS) for _ in range(3))
        finally:
            self.prior.pipe = own
        return replayed - alone


def _cpu_seconds(run: Callable[[], Any], calls: int = 1) -> float:
    """Of one call."""
    began = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - began) / calls


def measure(evaluation: Evaluation, turns: int) -> dict[str, Any]:
    """Forward, and forward and back."""
    found = {}
    for name, gradient in (("forward", False), ("gradient", True)):
        ratios, seconds = [], []
        for turn in range(turns):
            ways = {"replayed": evaluation.replayed, "bare": evaluation.bare}
            order = sorted(ways, reverse=turn % 2 == 1)  # who begins takes turns as well
            times = {way: _cpu_seconds(partial(ways[way], gradient)) for way in order}
            ratios.append(times["replayed"] / times["bare"])
            seconds.append(times["bare"])
        overhead = evaluation.overhead(gradient)
        found[name] = {
            "seconds": median(seconds),
            "ratio": round(median(ratios), 4),
            "ratios": [round(ratio, 4) for ratio in ratios],
            "overhead": overhead,
            "share": overhead / median(seconds),
        }
    return found


def probe(pipe: Any, pipe_kwargs: dict[str, Any], prompts: list[str] | None, steps: int) -> tuple[Any, ...]:
    """Prior, conditions and times, as a task has them before its first evaluation."""
    prior = ProbedPrior(pipe, pipe_kwargs=pipe_kwargs)
    told = prior.told(ViewRequest(4, prompts))
    return prior, told.cond, prior.steps(steps).timesteps


def main(
    turns: Annotated[int, typer.Option(help="Evaluations of each kind.")] = 5,
    output: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULTS / "replay_cpu.json",
) -> None:
    """Measures both networks."""
    torch.set_num_threads(1)
    scenes = fs.SyncPipeline.from_zoo("scenes", device="cpu", dtype=torch.float32).pipe
    gc.collect()
    probes = [_cpu_seconds(lambda: probe(scenes, {}, ["mountains"], 20)) for _ in range(turns)]
    result: dict[str, Any] = {"scenes": measure(Evaluation(*probe(scenes, {}, ["mountains"], 20)), 4 * turns)}
    result["scenes"]["probe"] = {"seconds": min(probes), "all": probes}
    pipe, embeds = stable_diffusion()
    result["SD 1.5"] = measure(Evaluation(*probe(pipe, embeds, None, 20)), turns)
    settings = {"device": "cpu", "threads": 1, "turns": turns}
    write_json(output, {**describe(), "settings": settings, "networks": result})
    for name, rows in result.items():
        for way in ("forward", "gradient"):
            row = rows[way]
            typer.echo(f"{name:8} {way:9} ratio {row['ratio']:.4f}, overhead {1e6 * row['overhead']:.1f} us")
    typer.echo(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)
