"""Compiled networks: the same numbers, no recompilation during a run, nothing left behind."""

import accelerate
import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import relative
from torch._dynamo.utils import counters

import fastsync as fs
from fastsync.priors import Compiler


@pytest.fixture(scope="module")
def pipe():
    return tiny.make_pipeline()


def picture(sync, method, seed=0):
    """Three windows in a wavefront: batches of 1 to 3 views."""
    return sync.wide(
        "a cat", width=40, overlap=4, method=method, num_inference_steps=8, seed=seed, output_type="latent",
        progress=False,
    )  # fmt: skip


def test_regional_is_the_same_picture_and_never_compiles_again(pipe):
    method = fs.SyncVC(iterations=2)
    plain = picture(fs.SyncPipeline(pipe), method)
    sync = fs.SyncPipeline(pipe, compile="regional")
    torch._dynamo.reset()
    counters.clear()
    first = picture(sync, method)
    assert relative(first.latents, plain.latents) < 1e-4
    assert first.stats.padded < 0.1 * first.stats.evaluations
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0 and not counters["graph_break"]
    other = picture(sync, method, seed=1)
    assert counters["stats"]["unique_graphs"] == graphs
    assert relative(other.latents, plain.latents) > 0.1
    # Outside of a run the pipeline is what it was.
    assert all(module._compiled_call_impl is None for module in pipe.unet.modules())
    assert relative(picture(fs.SyncPipeline(pipe), method).latents, plain.latents) == 0


def test_modes_are_checked(pipe):
    with pytest.raises(ValueError, match="compile must be one of 'off', 'regional', 'max'"):
        fs.SyncPipeline(pipe, compile="fast")


def test_shapes_are_not_limited_to_what_dynamo_allows_by_itself(pipe):
    """All blocks share one code object; a UNet of SD's size passes 256 with the batch sizes of two pictures."""
    config = torch._dynamo.config
    before = config.recompile_limit, config.accumulated_recompile_limit
    with Compiler(pipe.unet, "regional").on():
        assert min(config.recompile_limit, config.accumulated_recompile_limit) > 1000
    assert (config.recompile_limit, config.accumulated_recompile_limit) == before


@pytest.mark.parametrize("mode, how", [("max", "model"), ("max", "layers"), ("regional", "layers")])
def test_offload_of_what_is_compiled_is_refused(mode, how):
    unet = tiny.make_unet()
    if how == "model":
        accelerate.cpu_offload_with_hook(unet, torch.device("cpu"))
    else:
        accelerate.cpu_offload(unet, torch.device("cpu"))
    with pytest.raises(ValueError, match="cannot compile the hooks by which accelerate offloads the network"):
        Compiler(unet, mode).on().__enter__()
    assert all(module._compiled_call_impl is None for module in unet.modules())


def test_offload_of_the_whole_model_leaves_its_blocks_to_be_compiled():
    unet = tiny.make_unet()
    accelerate.cpu_offload_with_hook(unet, torch.device("cpu"))
    with Compiler(unet, "regional").on():
        pass


def test_max_wraps_the_whole_network_and_leaves_it_as_it_was(pipe):
    compiler = Compiler(pipe.unet, "max")
    with compiler.on():
        assert pipe.unet._compiled_call_impl is not None
    assert pipe.unet._compiled_call_impl is None
