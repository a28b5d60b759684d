"""A pipeline is bit for bit as it was, whatever was asked of its prior, and wherever in a probe something raised."""

import pytest
import tiny_families
import torch
from families import FAMILIES
from families.asking import first_noise, request, wrapped
from families.running import spied
from families.state import assert_same, snapshot

import fastsync as fs
from fastsync.priors import ViewRequest
from fastsync.priors.probe import CannotProbe
from fastsync.priors.probe.recording import _Run


def sd():
    """With a LoRA, in training, with a hook of its owner's."""
    pipe = FAMILIES["sd-lora"].make()
    pipe.unet.train()
    pipe.unet.conv_in.register_forward_hook(lambda *_: None)
    return pipe, FAMILIES["sd-lora"].call(0)


def sdxl():
    """With an autoencoder in float16 that its pipeline casts to float32."""
    pipe = tiny_families.make_xl_pipeline()
    pipe.vae.register_to_config(force_upcast=True)
    pipe.vae.to(torch.float16)
    return pipe, {"prompt": "a cat", "negative_prompt": "grey", "height": 16, "width": 16}


def flux():
    pipe = FAMILIES["flux-cfg"].make()
    pipe.transformer.train()
    return pipe, FAMILIES["flux-cfg"].call(0)


def ask(pipe, call):
    """All that a task does before its first evaluation."""
    given = {k: v for k, v in call.items() if k not in ("prompt", "negative_prompt", "height", "width")}
    prior = fs.priors.ProbedPrior(pipe, window=(16, 16), pipe_kwargs=given)
    told = prior.told(ViewRequest(2, ["a cat", "a dog"], call["negative_prompt"], seed=3))
    prior.steps(2)
    return prior, told


class Fuse:
    """Raises at call ``at`` of anything that a probe calls."""

    def __init__(self, monkeypatch, pipe):
        self.calls, self.at = 0, 0
        for name in ("_answer", "_step", "_scale", "_set_timesteps", "_encode", "_decode", "_encode_prompt"):
            own = getattr(_Run, name)
            monkeypatch.setattr(_Run, name, self.before(own))
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.register_forward_pre_hook(self.before(lambda *_: None))

    def before(self, own):
        def called(*args, **kwargs):
            self.calls += 1
            if self.calls == self.at:
                raise (KeyboardInterrupt if self.at % 2 else RuntimeError)("blown")
            return own(*args, **kwargs)

        return called


@pytest.mark.parametrize("make", [sd, sdxl, flux])
def test_wherever_something_raises(make, monkeypatch):
    pipe, call = make()
    fuse = Fuse(monkeypatch, pipe)
    ask(pipe, call)  # what modules keep of their first call is there
    generator = torch.Generator().manual_seed(1)
    before, count = snapshot(pipe, generator), fuse.calls
    refused = 0
    for fuse.at in range(1, count + 1):
        fuse.calls = 0
        if fuse.at % 2:
            with pytest.raises(KeyboardInterrupt):
                ask(pipe, call)
        else:
            try:
                ask(pipe, call)  # what raises once while views are told is learnt anew
            except CannotProbe as error:
                message, refused = str(error), refused + 1
                assert message.startswith(type(pipe).__name__) and "\n" not in message and len(message) < 320
                assert isinstance(error.__cause__, RuntimeError)
        assert_same(before, snapshot(pipe, generator))
    assert refused > count / 6 > 8
    fuse.calls, fuse.at = 0, 0
    ask(pipe, call)
    assert_same(before, snapshot(pipe, generator))


@pytest.mark.parametrize(
    "name",
    ["sd-freeu", "sd-controlnet", "sd-ip-adapter", "sdxl-lora", "flux-lora", "sd3-img2img", "if", "sana", "z-image"],
)
def test_after_a_run(name):
    family = FAMILIES[name]
    pipe = family.make()
    run = spied(pipe, family.call(0), steps=family.steps)
    before, seed = snapshot(pipe), 0
    prior = wrapped(family, pipe)
    assert_same(before, snapshot(pipe))
    told = prior.told(request(family, seed=seed))
    assert_same(before, snapshot(pipe))
    latents = first_noise(prior, told, run, family.steps)
    assert_same(before, snapshot(pipe))
    out = fs.sample(
        prior, fs.WideCanvas(prior.window, prior.window, 1), fs.SyncVC(iterations=1), cond=told.cond,
        uncond=told.uncond, guidance_scale=told.guidance, start=told.start, latents=latents,
        num_inference_steps=family.steps, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        prior.decode(out.canvas)
    assert_same(before, snapshot(pipe))
    again = spied(pipe, family.call(0), steps=family.steps)
    assert torch.equal(again.final, run.final) and torch.equal(again.picture, run.picture)
