"""The benchmark's models: of the published size, born where they are used, and the same code on small ones."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch._subclasses import FakeTensorMode

from bench import memory_models, models, pipelines
from bench.machine import RESULTS
from bench.pipelines import MODELS, Model, make, measure

META, CPU = torch.device("meta"), torch.device("cpu")
# In billions, by the models' cards.
PUBLISHED = {"SD 1.5": 0.86, "SDXL": 2.57, "SD3 medium": 2.03, "FLUX.1": 11.9, "SANA 1.6B": 1.6}
AUTOENCODERS = {"SDXL": 0.0837, "SD3 medium": 0.0838, "FLUX.1": 0.0838, "SANA 1.6B": 0.312}
_KL = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 4}
_TWO_LEVELS = {
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "encoder_layers_per_block": (1, 1),
    "decoder_layers_per_block": (1, 1),
    "encoder_qkv_multiscales": ((), ()),
    "decoder_qkv_multiscales": ((), ()),
}
# What makes each model small; the rest of its config stays.
SMALL: dict[str, tuple[dict, dict, dict, int]] = {
    "SDXL": (
        {
            "block_out_channels": (8, 16, 16),
            "norm_num_groups": 4,
            "attention_head_dim": (2, 2, 2),
            "cross_attention_dim": 16,
            "transformer_layers_per_block": (1, 1, 2),
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 40,
        },
        _KL,
        {"prompt_embeds": (7, 16), "pooled_prompt_embeds": (16,)},
        64,
    ),
    "SD3 medium": (
        {
            "sample_size": 8,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "caption_projection_dim": 16,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 12,
        },
        _KL,
        {"prompt_embeds": (7, 16), "pooled_prompt_embeds": (16,)},
        64,
    ),
    "FLUX.1": (
        {
            "num_layers": 1,
            "num_single_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 4, 8),
        },
        _KL,
        {"prompt_embeds": (7, 16), "pooled_prompt_embeds": (16,)},
        64,
    ),
    "SANA 1.6B": (
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 16,
            "sample_size": 8,
        },
        {**_TWO_LEVELS, "latent_channels": 4, "attention_head_dim": 2},
        {"prompt_embeds": (7, 16), "prompt_attention_mask": (7,)},
        32,
    ),
}


def small(name: str) -> Model:
    """The model with few weights; everything else as it is."""
    network, vae, embeds, window = SMALL[name]
    model = MODELS[name]
    kept = {key: shape for key, shape in embeds.items() if key in model.embeds}
    negatives = {f"negative_{key}": shape for key, shape in kept.items() if f"negative_{key}" in model.embeds}
    component, kind, config = model.network
    return dataclasses.replace(
        model,
        network=(component, kind, {**config, **network}),
        vae=(model.vae[0], {**model.vae[1], **vae}),
        embeds={**kept, **negatives},
        window=window,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_size(name):
    count = sum(p.numel() for p in models.empty(name).parameters())
    assert abs(count / 1e9 - PUBLISHED[name]) < 0.01


@pytest.mark.parametrize("name", MODELS)
def test_pipelines_are_made_of_them(name):
    pipe = make(MODELS[name], META, torch.bfloat16)
    network = getattr(pipe, MODELS[name].network[0])
    assert abs(sum(p.numel() for p in network.parameters()) / 1e9 - PUBLISHED[name]) < 0.01
    assert abs(sum(p.numel() for p in pipe.vae.parameters()) / 1e9 - AUTOENCODERS[name]) < 0.001
    assert {p.dtype for part in (network, pipe.vae) for p in part.parameters()} == {torch.bfloat16}


def test_weights_are_born_in_their_precision():
    """No copy in float32 is made first: nothing but tables has that dtype when the constructor returns."""
    with models.born(CPU, torch.bfloat16):
        network = MODELS["FLUX.1"].network[1](**small("FLUX.1").network[2])
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_a_small_one_is_measured(name):
    found = measure(small(name), CPU, torch.float32, steps=3)
    rows = MODELS[name].rows
    assert found["own"]["rows"] == 3 * rows
    assert found["probe"]["calls"] == 1  # one real call
    assert found["MultiDiffusion"]["rows"] == 3 * rows * pipelines.VIEWS and found["MultiDiffusion"]["gradients"] == 0
    assert found["SyncVC"]["rows"] > 2 * found["MultiDiffusion"]["rows"] and found["SyncVC"]["gradients"] > 0
    assert found["share"] > 0


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_account_needs_no_data(name):
    model = small(name)
    real = memory_models.account(name, model, torch.float32)
    with FakeTensorMode():
        assert memory_models.account(name, model, torch.float32) == real
    one, three = (real["evaluations"][count] for count in ("1", "3"))
    assert three["forward"] > 2 * one["forward"] > 0
    assert one["forward"] < one["checkpointed"] < one["gradient"]


def test_all_models_fit_into_a_card_of_80_gb_with_their_gradients():
    result = json.loads((RESULTS / "memory_models.json").read_text())["models"]
    assert result.keys() == MODELS.keys()
    for name, row in result.items():
        assert -0.01 < row["weights"]["network"] / 2e9 - PUBLISHED[name] < 0.15  # tables of positions are in float32
        assert sum(row["weights"].values()) + row["evaluations"]["3"]["checkpointed"] < 78e9
