"""The untrained parts: tokenizer, networks, scheduler."""

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from fastsync.zoo import models, scenes


@pytest.fixture(scope="module")
def tokenizer():
    return models.make_tokenizer(scenes.vocabulary())


def test_every_word_of_the_grammar_is_one_token(tokenizer):
    split = [word for word in scenes.vocabulary() if len(tokenizer(word).input_ids) != 3]
    assert split == []


def test_captions_fit_and_read_back(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = scenes.caption(scenes.sample_scene(rng), rng)
        ids = tokenizer(text).input_ids
        assert len(ids) <= tokenizer.model_max_length
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["Zebra über 42, 日本!", "an UNKNOWN word", "", "\U0001f30b volcano"])
def test_any_text_has_tokens_and_none_is_the_end_mark(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(" ", "")


def test_the_tokenizer_survives_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("a photo of the alps at dusk", "Zebra, 42!"):
        assert loaded(text).input_ids == tokenizer(text).input_ids
    padded = loaded("dunes", padding="max_length", truncation=True).input_ids
    assert len(padded) == 24 and padded[3:] == [tokenizer.pad_token_id] * 21


def test_shapes_of_the_shipped_size(tokenizer):
    size = models.Size()
    assert (size.factor, size.cells) == (8, 16)
    vae, unet, text = models.make_vae(size), models.make_unet(size), models.make_text_encoder(tokenizer, size)
    bytes_on_disk = 2 * _count(vae) + 2 * _count(unet) + 4 * _count(text)
    assert bytes_on_disk < 23 * 2**20
    with torch.no_grad():
        z = vae.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mean
        assert z.shape == (1, size.latent_channels, 16, 16)
        ids = torch.tensor(tokenizer(["dunes"], padding="max_length").input_ids)
        states = text(ids)[0]
        assert states.shape == (1, 24, size.text_width)
        assert unet(z, torch.tensor([999]), states).sample.shape == z.shape
        assert vae.decode(z).sample.shape == (1, 3, 128, 128)


def _count(module):
    return sum(p.numel() for p in module.parameters())


def test_sampling_starts_at_the_last_time():
    scheduler = models.make_scheduler()
    scheduler.set_timesteps(20)
    assert int(scheduler.timesteps[0]) == 999
    assert scheduler.config.prediction_type == "v_prediction" and not scheduler.config.clip_sample
