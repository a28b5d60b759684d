"""Around a pipeline that you have: a wide picture whose windows are each told something else.

    python examples/windows_of_their_own.py [MODEL]

MODEL is a Stable Diffusion in diffusers' format, a folder or a name; without one, the small model in the package. The
embeddings of two prompts are blended from window to window, so that the day ends from left to right.
"""

import sys

import torch
from diffusers import DiffusionPipeline

import fastsync as fs
from fastsync import zoo

WINDOWS = 7
model = sys.argv[1] if len(sys.argv) > 1 else zoo.path("scenes")
device = "cuda" if torch.cuda.is_available() else "cpu"
pipe = DiffusionPipeline.from_pretrained(model).to(device)

with torch.no_grad():
    noon, _ = pipe.encode_prompt("mountains at noon", device, 1, False)
    sunset, _ = pipe.encode_prompt("mountains at sunset", device, 1, False)
blends = [torch.lerp(noon, sunset, k / (WINDOWS - 1)) for k in range(WINDOWS)]

sync = fs.SyncPipeline(pipe)  # the pipeline itself is not changed
height, window = sync.window_pixels
overlap = 3 * window // 4
out = sync.wide(
    width=window + (WINDOWS - 1) * (window - overlap),
    overlap=overlap,
    method=fs.MultiDiffusion(weights="gaussian"),
    guidance_scale=3.0,
    num_inference_steps=20,
    # Whatever else the pipeline's own call takes; ByView where windows differ.
    pipe_kwargs={"prompt_embeds": fs.ByView(blends)},
    seed=0,
)
out.images[0].save("day.png")
print(f"day.png: {out.stats.evaluations} view-evaluations in {out.stats.seconds:.1f} s")
