"""CLIP's cosine on a tiny model of transformers' own, in memory and from a folder."""

import json

import pytest
import tiny_pipelines as tiny
import torch
from exact_priors import randn
from transformers import CLIPConfig, CLIPModel

import fastsync as fs
from fastsync.rewards import Clip

SIDE = 8


@pytest.fixture
def model():
    tokenizer = tiny.make_tokenizer()
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tiny.TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**layers, "image_size": SIDE, "patch_size": 4},
        projection_dim=6,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPModel(config).eval()


def picture(*size, seed=0):
    return torch.sigmoid(randn(3, *size, seed=seed))


def test_it_is_the_models_own_cosine(model):
    tokenizer = tiny.make_tokenizer()
    x = picture(SIDE, SIDE).float()
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    tokens = tokenizer(["a cat"], return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=((x - mean[:, None, None]) / std[:, None, None])[None], **tokens)
    cosine = float(out.logits_per_image / model.logit_scale.detach().exp())
    assert abs(cosine) > 1e-3
    reward = Clip(model, "a cat", tokenizer, weight=10.0)
    assert float(reward(x, [], 0).detach()) == pytest.approx(10 * cosine, rel=1e-4)
    assert reward.pixels and reward.scores_first_view and not reward.reads_earlier


def test_a_prompt_a_view(model):
    tokenizer, x = tiny.make_tokenizer(), picture(5, 9).float()
    each = Clip(model, ["a cat", "dogs"], tokenizer)
    assert each.begin(fs.WideCanvas((4, 10), (4, 6), 4), [0, 1]) is each
    for i, prompt in enumerate(["a cat", "dogs"]):
        assert float(each(x, [], i).detach()) == pytest.approx(
            float(Clip(model, prompt, tokenizer)(x, [], 1).detach()), rel=1e-4
        )
    with pytest.raises(ValueError, match="prompt must be one or 3 texts"):
        each.begin(fs.WideCanvas((4, 14), (4, 6), 4), [0, 1, 2])


def test_gradient(model):
    reward = Clip(model.double(), "a cat", tiny.make_tokenizer())
    assert torch.autograd.gradcheck(lambda p: reward(p, [], 0), picture(6, 11).requires_grad_(), fast_mode=True)


def test_from_a_folder(model, tmp_path):
    tokenizer, x = tiny.make_tokenizer(), picture(6, 11).float()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert float(Clip(tmp_path, "a cat")(x, [], 0).detach()) == pytest.approx(
        float(Clip(model, "a cat", tokenizer)(x, [], 0).detach())
    )
    settings = {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    normalised = Clip(str(tmp_path), "a cat")
    assert float(normalised(x, [], 0).detach()) != pytest.approx(
        float(Clip(model, "a cat", tokenizer)(x, [], 0).detach()), rel=1e-3
    )


def test_settings_are_checked(model, tmp_path):
    tokenizer = tiny.make_tokenizer()
    cases = [
        (ValueError, "prompt must be a text or a list of texts", (model, "", tokenizer)),
        (ValueError, "prompt must be a text or a list of texts", (model, 3, tokenizer)),
        (TypeError, "model must be a transformers CLIPModel", (3, "a cat", tokenizer)),
        (ValueError, "does not bring its tokenizer", (model, "a cat")),
        (ValueError, "could not be loaded", (tmp_path, "a cat")),
        (ValueError, "weight must be at least 0", (model, "a cat", tokenizer, -1.0)),
    ]
    for kind, sentence, arguments in cases:
        with pytest.raises(kind, match=sentence) as caught:
            Clip(*arguments)
        assert "\n" not in str(caught.value)
