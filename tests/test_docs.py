"""The pages: their examples run, their links lead somewhere, and nobody cites what is not in the repository."""

import re
import subprocess
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from exact_priors import ddim, nonlinear, randn, relative

import fastsync as fs
from fastsync import priors
from fastsync.priors import registry

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
ELSEWHERE = [f"{name}.md" for name in ("DESIGN", "HOUSE", "ROWS")]  # of those who plan, not of the repository


def tracked():
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in found.stdout.split("\0") if name]


def test_no_file_cites_a_document_that_is_not_here():
    citing = []
    for path in tracked():
        try:
            text = path.read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # no text; deleted and not committed yet
            continue
        citing += [f"{path.relative_to(ROOT)}: {name}" for name in ELSEWHERE if name in text]
    assert not citing


def headings(page):
    return re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)


def test_sections_that_are_cited_exist():
    known, cited = headings(ROOT / "docs" / "mathematics.md"), 0
    for folder in ("fastsync", "kernels", "csrc", "bench", "tests"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".cpp", ".cu", ".h"):
                for section in re.findall(r'docs/mathematics\.md,\s+"([^"]+)"', path.read_text()):
                    assert section in known, f"{path.relative_to(ROOT)} cites {section!r}"
                    cited += 1
    assert cited >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.exists(), target
        if anchor:
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(linked)]
            assert anchor in slugs, target


def blocks(page, begins):
    """The blocks of Python on a page that begin so."""
    found = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    return [code for code in found if code.startswith(begins)]


HOW, README = ROOT / "docs" / "how-it-works.md", ROOT / "README.md"


@pytest.fixture
def given():
    """What the examples take for given: a prior, a canvas, conditions."""
    prior = fs.FunctionPrior(nonlinear, ddim(), (2, 8, 8))
    cond = 0.5 * randn(1, 2, 8, 8).float()
    canvas = fs.WideCanvas((8, 20), (8, 8), 6)
    return {"fs": fs, "torch": torch, "prior": prior, "canvas": canvas, "cond": cond, "uncond": -cond}


def test_a_loop_of_ones_own(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.print", lambda *words: None)
    torch.manual_seed(0)
    stopped, resumed = blocks(HOW, "session = ")
    exec(stopped, given)
    whole = given.pop("out")
    assert given["preview"].shape == (3, 2, 8, 8) and given["state"].step == 19
    torch.manual_seed(1)
    exec(resumed, given)
    assert torch.equal(given["out"].canvas, whole.canvas)


def test_the_loop_of_the_readme(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    (code,) = blocks(README, "session = ")
    exec(code, given | {"show": shown.append, "generator": torch.Generator().manual_seed(0)})
    assert len(shown) == 50 and torch.load("run.pt")["position"] > 0


def test_guidance_as_a_value(given):
    exec(*blocks(HOW, "guidance = "), given)
    plain = fs.sample(given["prior"], given["canvas"], fs.SyncVC(), cond=given["cond"], uncond=given["uncond"])
    assert given["out"].stats.evaluations < plain.stats.evaluations


def test_conditions_with_names(given):
    seen = []

    def network(x, t, text, depth):
        seen.append((text.shape[1:], depth.shape[1:]))
        return torch.tanh(x + depth + text.mean())

    given |= {
        "network": network, "scheduler": ddim(), "canvas": fs.WideCanvas((64, 160), (64, 64), 48), "text":
        torch.ones(1, 77, 768), "empty": torch.zeros(1, 77, 768), "depth": randn(3, 1, 64, 64).float(),
    }  # fmt: skip
    (code,) = blocks(HOW, "def eps_fn")
    exec(code.replace("uncond=uncond)", "uncond=uncond, num_inference_steps=2)"), given)
    assert set(seen) == {((77, 768), (1, 64, 64))} and given["out"].views.shape == (3, 4, 64, 64)


class TilesPipeline(DiffusionPipeline):
    """A pipeline that fastsync has never heard of."""

    kinds = ("bricks", "marble")

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)


def test_an_adapter_of_ones_own(given, monkeypatch):
    for table in ("_USERS", "_OWN"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, num_class_embeds=3,
    )  # fmt: skip
    pipe = TilesPipeline(unet, tiny.make_scheduler()).to(torch.float64)
    with pytest.raises(ValueError, match="TilesPipeline"):
        fs.SyncPipeline(pipe).wide("marble", width=16)
    exec(*blocks(HOW, "from fastsync.diffusion import NoiseSchedule"), given | {"pipe": pipe})
    prior = priors.wrap(pipe)
    assert type(prior).__name__ == "TilesPrior" and prior.view_shape == (3, 16, 16) and prior.dtype == torch.float64
    # One window is DDIM's loop around the network.
    sync, x = fs.SyncPipeline(pipe), randn(1, 3, 16, 16)
    picture = {"width": 16, "height": 16, "overlap": 4, "num_inference_steps": 3, "guidance_scale": 3.0}
    out = sync.wide("marble", latents=x, output_type="latent", progress=False, **picture)
    scheduler = tiny.make_scheduler()
    scheduler.set_timesteps(3)
    for t in scheduler.timesteps:
        with torch.no_grad():
            none, marble = (unet(x, t, class_labels=torch.tensor([kind])).sample for kind in (2, 1))
        x = scheduler.step(none + 3.0 * (marble - none), t, x).prev_sample
    assert relative(out.latents, x) < 1e-6
    # Several are any method's, with gradients.
    wide = sync.wide(["bricks", "marble"], method="syncvc", **{**picture, "width": 28}, progress=False)
    assert wide.images[0].size == (28, 16) and wide.stats.gradients > 0
