"""Pipelines that whoever learns from a call must refuse, or must not be harmed by: one small subclass each.

``AWKWARD`` maps names to ``Family`` values, whose ``needs`` says what is right: "replay" (awkward but regular),
"reentry" (the recipe is not the same in all steps) or "refusal" (nothing can be learnt; the pipeline stays as it was).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import scale_lora_layers, unscale_lora_layers
from tiny_pipelines import WIDTH, make_unet

from .flux import variant as make_flux
from .parts import make_pipeline
from .registry import FAMILIES, NEGATIVE, Draw, Family
from .stable_diffusion import euler, sd_lora

AWKWARD: dict[str, Family] = {}


def text(draw: Draw, **more: Any) -> dict[str, Any]:
    return {"prompt": draw.prompt, "negative_prompt": NEGATIVE, "height": 16, "width": 16, **more}


def flux_text(draw: Draw) -> dict[str, Any]:
    return {"prompt": draw.prompt, "height": 16, "width": 16, "max_sequence_length": 12}


def awkward(
    name: str, needs: str, why: str, arguments: Callable[[Draw], dict[str, Any]] = text, **facts: Any
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register the decorated builder as ``AWKWARD[name]``."""

    def add(build: Callable[[], Any]) -> Callable[[], Any]:
        AWKWARD[name] = Family(name, build, arguments, needs=needs, why=why, **facts)
        return build

    return add


class OwnLoop(StableDiffusionPipeline):
    """Stable Diffusion's parts in a loop of its own, whose lines subclasses change."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any = None,
        height: int = 16,
        width: int = 16,
        num_inference_steps: int = 4,
        guidance_scale: float = 3.0,
        negative_prompt: Any = None,
        generator: Any = None,
        latents: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        self._guidance_scale, self._interrupt = guidance_scale, False
        count = 1 if isinstance(prompt, str) else len(prompt)
        cond, uncond = self.encode_prompt(prompt, self._execution_device, 1, True, negative_prompt)
        self.scheduler.set_timesteps(num_inference_steps)
        x = self.prepare_latents(count, 4, height, width, cond.dtype, self._execution_device, generator, latents)
        self.begin()
        for i, t in enumerate(self.scheduler.timesteps):
            if self.interrupt:
                continue
            model_output = self.evaluate(i, t, x, torch.cat([uncond, cond]))
            x = self.after(i, self.scheduler.step(model_output, t, x, return_dict=False)[0])
        self.end()
        image = x
        if output_type != "latent":
            image = self.vae.decode(x / self.vae.config.scaling_factor, return_dict=False)[0]
            image = self.image_processor.postprocess(image, output_type=output_type)
        self.maybe_free_model_hooks()
        return (image,)

    def begin(self) -> None:
        """Before the first step."""

    def end(self) -> None:
        """After the last one."""

    def evaluate(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """The model output of step ``i``."""
        return self.guide(i, *self.network(i, t, x, states).chunk(2))

    def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Rows of the network, the unconditional half first."""
        rows = self.scheduler.scale_model_input(torch.cat([x] * (len(states) // len(x))), t)
        return self.unet(rows, t, encoder_hidden_states=states, return_dict=False)[0]

    def guide(self, i: int, uncond: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return uncond + self.guidance_scale * (cond - uncond)

    def after(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """The state of the next step."""
        return x


def loop(kind: Any = OwnLoop, **settings: Any) -> Any:
    """A pipeline of class ``kind`` whose last step is as large as the others."""
    settings.setdefault("scheduler", euler(timestep_spacing="trailing"))
    return kind(**make_pipeline(**settings).components, requires_safety_checker=False)


# ---- what surrounds the loop ----


@awkward("no-scheduler", "refusal", "there is nothing to step with")
def no_scheduler() -> Any:
    pipe = make_pipeline()
    pipe.scheduler = None
    return pipe


@awkward(
    "cached-first-block",
    "refusal",
    "the transformer skips blocks by what it saw in earlier steps",
    flux_text,
    curve="flow",
)
def cached_first_block() -> Any:
    pipe = make_flux()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    return pipe


@awkward("cached-attention", "refusal", "attention is taken from earlier steps", flux_text, curve="flow")
def cached_attention() -> Any:
    pipe = make_flux()
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000),
        current_timestep_callback=lambda: 500,
    )
    pipe.transformer.enable_cache(config)
    return pipe


@awkward("half-on-meta", "refusal", "half of the network has no weights")
def half_on_meta() -> Any:
    pipe = make_pipeline()
    pipe.unet.up_blocks.to("meta")
    return pipe


@awkward("interrupted", "refusal", "_interrupt is set in the second step, and the rest of the steps is skipped")
def interrupted() -> Any:
    class Interrupted(OwnLoop):
        def after(self, i: int, x: torch.Tensor) -> torch.Tensor:
            self._interrupt = i >= 1
            return x

    return loop(Interrupted)


@awkward("always-interrupted", "refusal", "its interrupt is always True: no step is taken")
def always_interrupted() -> Any:
    class AlwaysInterrupted(OwnLoop):
        interrupt = True

    return loop(AlwaysInterrupted)


@awkward("raising", "refusal", "raises in its second step")
def raising() -> Any:
    class Raising(OwnLoop):
        def after(self, i: int, x: torch.Tensor) -> torch.Tensor:
            if i == 1:
                raise RuntimeError("no more today")
            return x

    return loop(Raising)


@awkward("exiting", "refusal", "raises what is no Exception in its second step: to be passed on, with all put back")
def exiting() -> Any:
    class Exiting(OwnLoop):
        def after(self, i: int, x: torch.Tensor) -> torch.Tensor:
            if i == 1:
                raise KeyboardInterrupt
            return x

    return loop(Exiting)


@awkward(
    "left-scaled",
    "replay",
    "trains and scales its adapters during the loop, and undoes both only when it comes to its end",
)
def left_scaled() -> Any:
    class LeftScaled(OwnLoop):
        def begin(self) -> None:
            scale_lora_layers(self.unet, 0.5)
            self.unet.train()

        def end(self) -> None:
            unscale_lora_layers(self.unet, 0.5)
            self.unet.eval()

    return LeftScaled(**sd_lora().components, requires_safety_checker=False)


@awkward("own-steps", "refusal", "steps by itself: neither set_timesteps nor step is called")
def own_steps() -> Any:
    class OwnSteps(OwnLoop):
        @torch.no_grad()
        def __call__(
            self, prompt: Any, num_inference_steps: int = 4, generator: Any = None, output_type: str = "pil", **_: Any
        ) -> Any:
            cond, _ = self.encode_prompt(prompt, self._execution_device, 1, False)
            x = torch.randn((1, 4, 8, 8), generator=generator)
            for k in range(num_inference_steps):
                t = torch.tensor(999 - 999 * k // num_inference_steps)
                x = x - 0.2 * self.unet(x, t, encoder_hidden_states=cond, return_dict=False)[0]
            image = self.vae.decode(x, return_dict=False)[0]
            return (self.image_processor.postprocess(image, output_type=output_type),)

    return loop(OwnSteps)


# ---- what is not the same from call to call ----


@awkward("global-noise", "refusal", "adds noise of the global generator to the network's input in each step")
def global_noise() -> Any:
    class GlobalNoise(OwnLoop):
        def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return super().network(i, t, x + 0.1 * torch.randn(x.shape), states)

    return loop(GlobalNoise)


@awkward("global-start", "refusal", "draws its first state from the global generator, whatever generator it is given")
def global_start() -> Any:
    class GlobalStart(OwnLoop):
        def prepare_latents(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return torch.randn(1, 4, 8, 8)

    return loop(GlobalStart)


@awkward("dropout", "refusal", "its network is in training, with dropout: two calls differ")
def dropout() -> Any:
    pipe = loop(unet=make_unet(dropout=0.5))
    # Family.make puts the networks to eval, as from_pretrained does; this one comes back.
    pipe.unet.eval = lambda: pipe.unet
    pipe.unet.train()
    return pipe


@awkward("more-in-later-calls", "refusal", "asks its network twice a step from its second call on")
def more_in_later_calls() -> Any:
    counter = itertools.count()  # shared by every copy of the pipeline

    class MoreLater(OwnLoop):
        def begin(self) -> None:
            self._times = 1 if next(counter) == 0 else 2

        def evaluate(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return sum(OwnLoop.evaluate(self, i, t, x, states) for _ in range(self._times)) / self._times

    return loop(MoreLater)


# ---- what is not the same from step to step ----


@awkward("other-second-step", "reentry", "guided in the first step only: half as many rows later")
def other_second_step() -> Any:
    class OtherSecondStep(OwnLoop):
        def evaluate(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            if i == 0:
                return super().evaluate(i, t, x, states)
            return self.network(i, t, x, states.chunk(2)[1])

    return loop(OtherSecondStep)


@awkward("changing-guidance", "reentry", "the guidance scale falls from step to step")
def changing_guidance() -> Any:
    class ChangingGuidance(OwnLoop):
        def guide(self, i: int, uncond: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            return uncond + self.guidance_scale / (i + 1) * (cond - uncond)

    return loop(ChangingGuidance)


@awkward("last-step-differs", "reentry", "the guidance scale is another in the last step alone")
def last_step_differs() -> Any:
    class LastStepDiffers(OwnLoop):
        def guide(self, i: int, uncond: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            last = i == len(self.scheduler.timesteps) - 1
            return cond if last else super().guide(i, uncond, cond)

    return loop(LastStepDiffers)


@awkward("changed-state", "reentry", "the state shrinks between the steps")
def changed_state() -> Any:
    class ChangedState(OwnLoop):
        def after(self, i: int, x: torch.Tensor) -> torch.Tensor:
            return 0.98 * x

    return loop(ChangedState)


@awkward("step-input", "reentry", "text states grow from step to step")
def step_input() -> Any:
    class StepInput(OwnLoop):
        def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return super().network(i, t, x, states * (1 + 0.1 * i))

    return loop(StepInput)


class GainUNet(UNet2DConditionModel):
    """A UNet whose output is multiplied by an attribute."""

    gain = 1.0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        return (self.gain * out[0], *out[1:])


@awkward("hidden-input", "reentry", "sets an attribute of the network in each step, by which it multiplies its output")
def hidden_input() -> Any:
    class HiddenInput(OwnLoop):
        def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            self.unet.gain = 1.0 + 0.1 * i
            return super().network(i, t, x, states)

        def end(self) -> None:
            self.unet.gain = 1.0

    config = {k: v for k, v in make_unet().config.items() if not k.startswith("_")}
    return loop(HiddenInput, unet=GainUNet.from_config(config))


for name in ("sd-controlnet-end", "sd-inpaint-4", "flux-controlnet-end"):
    AWKWARD[name] = FAMILIES[name]


# ---- what becomes of the network's output ----


@awkward("permuted", "reentry", "the network's channels are permuted before the step")
def permuted() -> Any:
    class Permuted(OwnLoop):
        def evaluate(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return super().evaluate(i, t, x, states).flip(1)

    return loop(Permuted)


@awkward("doubled", "reentry", "the network's output is multiplied by two")
def doubled() -> Any:
    class Doubled(OwnLoop):
        def evaluate(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return 2.0 * super().evaluate(i, t, x, states)

    return loop(Doubled)


@awkward("clamped", "reentry", "the guided output is clamped: no linear rule")
def clamped() -> Any:
    class Clamped(OwnLoop):
        def guide(self, i: int, uncond: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            return super().guide(i, uncond, cond).clamp(-1.0, 1.0)

    return loop(Clamped)


@awkward("batch-coupled", "reentry", "the mean of all rows is taken off: right only where views go one by one")
def batch_coupled() -> Any:
    class BatchCoupled(OwnLoop):
        def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            out = super().network(i, t, x, states)
            return out - 0.5 * out.mean(0, keepdim=True)

    return loop(BatchCoupled)


@awkward("not-finite", "refusal", "the network's output is not a number")
def not_finite() -> Any:
    class NotFinite(OwnLoop):
        def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            return super().network(i, t, x, states) * float("nan")

    return loop(NotFinite)


# ---- awkward but regular ----


@awkward("other-guidance", "replay", "a StableDiffusionPipeline by class that guides as cond + g (cond - uncond)")
def other_guidance() -> Any:
    class OtherGuidance(OwnLoop):
        def guide(self, i: int, uncond: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            return cond + self.guidance_scale * (cond - uncond)

    return loop(OtherGuidance)


@awkward("sets-attributes", "replay", "notes on its network, during the call, at which time it was asked last")
def sets_attributes() -> Any:
    class SetsAttributes(OwnLoop):
        def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            self.unet.asked_last = t
            return super().network(i, t, x, states)

    return loop(SetsAttributes)


class PlainDenoiser(torch.nn.Module):
    """No ModelMixin: two convolutions, time and text added between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(4, 8, 3, padding=1)
        self.last = torch.nn.Conv2d(8, 4, 3, padding=1)
        self.text = torch.nn.Linear(WIDTH, 8)
        self.dtype, self.device = torch.float32, torch.device("cpu")  # which pipelines ask every part for

    def forward(self, x: torch.Tensor, t: Any, *, encoder_hidden_states: torch.Tensor, return_dict: bool = True) -> Any:
        time = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1, 1) / 1000
        states = self.text(encoder_hidden_states.mean(1))[..., None, None]
        return (self.last(torch.tanh(self.first(x) + time + states)),)


@awkward("plain-module", "replay", "its network is a plain torch.nn.Module")
def plain_module() -> Any:
    pipe = loop(scheduler=euler())
    pipe.unet = PlainDenoiser()
    return pipe


@awkward(
    "compiled",
    "replay",
    "its network is a torch.compile'd module; run it under torch.compiler.set_stance('force_eager')",
)
def compiled() -> Any:
    pipe = make_pipeline(scheduler=euler())
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    return pipe


class InPlaceUNet(UNet2DConditionModel):
    """A UNet that overwrites its input."""

    def forward(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(sample, *args, **kwargs)
        sample.zero_()
        return out


@awkward("in-place", "replay", "its network overwrites the rows that it was given")
def in_place() -> Any:
    config = {k: v for k, v in make_unet().config.items() if not k.startswith("_")}
    return loop(unet=InPlaceUNet.from_config(config), scheduler=euler())


@awkward("keywords-only", "replay", "its network takes keywords only, and its step count has another default")
def keywords_only() -> Any:
    class KeywordsOnly(OwnLoop):
        def network(self, i: int, t: Any, x: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            rows = self.scheduler.scale_model_input(torch.cat([x] * 2), t)
            return self.unet(sample=rows, timestep=t.expand(len(rows)), encoder_hidden_states=states).sample

    return loop(KeywordsOnly)


@awkward(
    "inference-mode", "replay", "its call is wrapped in torch.inference_mode, below which gradients need it unwrapped"
)
def inference_mode() -> Any:
    class InferenceMode(OwnLoop):
        __call__ = torch.inference_mode()(OwnLoop.__call__.__wrapped__)

    return loop(InferenceMode)
