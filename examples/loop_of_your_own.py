"""Embedded in a program: a prior out of a pipeline, a canvas, and the loop over the steps, all in your hands.

    python examples/loop_of_your_own.py [MODEL]

MODEL is any text-to-image pipeline in diffusers' format, a folder or a name; without one, the small model in the
package. What the clean picture is estimated to be is saved on the way.
"""

import sys

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor

import fastsync as fs
from fastsync import priors, zoo

model = sys.argv[1] if len(sys.argv) > 1 else zoo.path("scenes")
pipe = DiffusionPipeline.from_pretrained(model).to("cuda" if torch.cuda.is_available() else "cpu")

# Views are windows of the pipeline's default size, in its latents; window=(height, width) in pixels asks for another.
prior = priors.wrap(pipe)
print(prior)  # what is known of the pipeline
height, width = prior.window
canvas = fs.WideCanvas((height, 3 * width), window=prior.window, stride=width // 2, loop="x")

# What each view is told: its prompt and, where the model has been trained to know, its place in the whole.
request = priors.ViewRequest(
    canvas.num_views,
    prompts=["a forest at dawn"],
    guidance=fs.Guidance(3.0),
    places=[(y * prior.scale, x * prior.scale) for y, x in canvas.origins],
    size=(height * prior.scale, 3 * width * prior.scale),
)
told = prior.told(request)


def save(latents: torch.Tensor, name: str) -> None:
    """Decode a canvas [1, C, H, W] and write it."""
    with torch.no_grad():
        pixels = prior.decode(latents, closed=(False, True))  # the right border continues on the left
    VaeImageProcessor().postprocess(pixels.float())[0].save(name)


session = fs.Session(
    prior, canvas, fs.SyncTweedies(), cond=told.cond, uncond=told.uncond, guidance_scale=told.guidance,
    num_inference_steps=20, generator=torch.Generator().manual_seed(0),
)  # fmt: skip
for state in session:  # state.views are the noisy views, which may be replaced
    if state.step % 5 == 4:
        save(canvas.merge(state.x0), f"around_step_{state.step + 1:02}.png")
save(session.result().canvas, "around.png")
