"""A probe asks each network once, in a way that shows whether the rows of a batch know of each other."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from families import FAMILIES

from fastsync.priors import ViewRequest
from fastsync.priors.probe import apart
from fastsync.priors.probe.refusal import CannotProbe
from fastsync.priors.probed import ProbedPrior


def counted(pipe: Any) -> dict[str, int]:
    """Calls of each of the pipeline's modules from now on."""
    calls: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            part.register_forward_pre_hook(count(name))
    return calls


def probed(pipe: Any, call: dict[str, Any], prompts: list[str] | None = None) -> ProbedPrior:
    """All that a task does before its first evaluation."""
    given = {name: value for name, value in call.items() if name != "guidance_scale"}
    prompt, negative = given.pop("prompt", None), given.pop("negative_prompt", None)
    size = given.pop("height", None), given.pop("width", None)
    prior = ProbedPrior(pipe, window=None if size[0] is None else size, pipe_kwargs=given)
    prompts = [prompt] if prompts is None and prompt is not None else prompts
    prior.told(ViewRequest(3, prompts, negative))
    prior.steps(10)
    return prior


# Guidance in one batch: one call. In two calls a step: those of one step.
CALLS = {
    "sd": {"unet": 1},
    "sdxl": {"unet": 1},
    "sd-controlnet": {"unet": 1, "controlnet": 1},
    "sd-image-variation": {"unet": 1},
    "if": {"unet": 1},
    "sd3": {"transformer": 1},
    "flux": {"transformer": 1},
    "flux-img2img": {"transformer": 1},
    "sana": {"transformer": 1},
    "pixart-sigma": {"transformer": 1},
    "z-image": {"transformer": 1},
    "lumina2": {"transformer": 2},
    "cogview4": {"transformer": 2},
}


@pytest.mark.parametrize("name", CALLS)
def test_real_calls(name):
    pipe = FAMILIES[name].make()
    calls = counted(pipe)
    prior = probed(pipe, FAMILIES[name].call())
    networks = {template.network for template in prior._learnt.templates}
    assert {network: calls[network] for network in networks} == CALLS[name]
    assert not prior._recorder.doubted & networks


@pytest.mark.parametrize("name", ["sd", "flux", "sdxl-controlnet"])
def test_a_tiny_probe_takes_less_than_a_fifth_of_a_second(name):
    """CPU time, the least of five: other programs and the collector of garbage only add to it."""
    pipe, call = FAMILIES[name].make(), FAMILIES[name].call()
    call.pop("controlnet_conditioning_scale", None)
    times = []
    for _ in range(5):
        gc.collect()
        began = time.process_time()
        probed(pipe, call)
        times.append(time.process_time() - began)
    assert min(times) < 0.2


def test_texts_of_the_form_that_is_known_teach_nothing_new(monkeypatch):
    pipe = FAMILIES["sd"].make()
    prior = probed(pipe, FAMILIES["sd"].call())
    recorded = []
    monkeypatch.setattr(prior._recorder, "record", spied(prior._recorder.record, recorded))
    prior.told(ViewRequest(3, ["dog", "red", "ZEBRA"]))
    assert recorded == [3, 1]  # one of them alone, of which the same has to come


def test_guidance_that_comes_with_a_negative_prompt_is_learnt(monkeypatch):
    """FLUX asks once a step without one, and twice with one."""
    pipe = FAMILIES["flux-cfg"].make()
    prior = ProbedPrior(pipe, window=(16, 16), pipe_kwargs={"true_cfg_scale": 3.0, "max_sequence_length": 12})
    recorded: list[int] = []
    monkeypatch.setattr(prior._recorder, "record", spied(prior._recorder.record, recorded))
    plain = prior.told(ViewRequest(1, ["dog"]))
    assert plain.uncond is None and recorded == [1]
    guided = prior.told(ViewRequest(1, ["dog"], ["grey"]))
    assert guided.uncond is not None and guided.guidance.scale == 3.0 and len(recorded) == 5


def spied(record: Any, rows: list[int]) -> Any:
    def recording(call: Any, count: int, **settings: Any) -> Any:
        rows.append(count)
        return record(call, count, **settings)

    return recording


# ---- rows that depend on each other -----------------------------------------------------------------------------


class Mixing:
    """Attention in which rows see each other's keys and values."""

    def __init__(self, seen: Any) -> None:
        self.seen, self.own = seen, AttnProcessor2_0()

    def __call__(self, layer: Any, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any) -> Any:
        if encoder_hidden_states is not None:
            return self.own(layer, hidden_states, encoder_hidden_states)
        return self.own(layer, hidden_states, self.seen(hidden_states))


MIXED = {
    "the mean": lambda x: x.mean(0, keepdim=True).expand_as(x),
    "the first row": lambda x: x[:1].expand_as(x),
    "the first row of each half": lambda x: torch.cat([half[:1].expand_as(half) for half in x.chunk(2)]),
    "the other half": lambda x: torch.cat(x.chunk(2)[::-1]),
    "the row before": lambda x: x.roll(1, 0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("seen", MIXED)
def test_rows_that_see_each_other_are_refused(seen, dtype):
    family = FAMILIES["sd"]
    pipe = family.make(dtype=dtype)
    for layer in pipe.unet.modules():
        if hasattr(layer, "set_processor"):
            for part in layer.to_q, layer.to_k, layer.to_v:
                part.weight.data *= 30  # attention must matter
            layer.set_processor(Mixing(MIXED[seen]))
    with pytest.raises(CannotProbe, match="asked apart differs from its own step"):
        probed(pipe, family.call())


@pytest.mark.parametrize("seen", ["the mean", "the first row", "the row before"])
def test_so_are_those_of_a_network_that_is_asked_for_one_row_a_picture(seen):
    family = FAMILIES["flux"]
    pipe = family.make()
    own = pipe.transformer.x_embedder.forward
    pipe.transformer.x_embedder.forward = lambda x: 0.5 * own(x) + 0.5 * MIXED[seen](own(x))
    rows, parts = apart.PICTURES, 1
    args = (torch.randn(rows * parts, 16, 16),)
    _, told = apart.ask(pipe.transformer.x_embedder, args, {}, rows)
    assert not told


class Net(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.asked = function, 0
        self.eval()

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return self.function(x, *args, **kwargs)


def test_an_answer_is_whole_though_half_of_the_states_were_not_numbers():
    x = torch.arange(4.0)[:, None] + 1
    net = Net(lambda x, k: (2 * x * k, {"more": [x + 1], "fixed": torch.ones(3)}))
    answer, told = apart.ask(net, (x, torch.tensor(3.0)), {}, 2)
    assert told and net.asked == 1
    assert answer[0].flatten().tolist() == [
        12,
        12,
        18,
        18,
    ]  # the second picture of the first half, the first of the last
    assert answer[1]["more"][0].flatten().tolist() == [3, 3, 4, 4] and answer[1]["fixed"].tolist() == [1, 1, 1]
    assert x.flatten().tolist() == [1, 2, 3, 4]


def test_lists_of_states_have_a_row_each():
    rows = [torch.full((2,), float(k)) for k in range(4)]
    answer, told = apart.ask(Net(lambda x: ([2 * row for row in x],)), (rows,), {}, 2)
    assert told and [row.tolist() for row in answer[0]] == [[2, 2], [2, 2], [4, 4], [4, 4]]


@pytest.mark.parametrize(
    "function, rows",
    [
        (lambda x: x + torch.rand(()), 2),
        (lambda x: x / 0, 2),
        (lambda x: x - x.mean(), 2),
        (lambda x: x[x.nan_to_num().long().argmax()] * x if x.isfinite().all() else x[9], 2),
        (lambda x: x, 1),
        (lambda x: x, 3),
    ],
    ids=["draws", "not finite", "mixes", "raises", "one picture", "other parts"],
)
def test_what_cannot_be_told_apart_is_asked_as_it_is(function, rows):
    x, state = torch.arange(1.0, 5.0)[:, None], torch.random.get_rng_state()
    torch.manual_seed(5)
    expected = function(x)
    torch.manual_seed(5)
    answer, told = apart.ask(Net(function), (x,), {}, rows)
    assert not told and torch.equal(answer, expected)
    torch.random.set_rng_state(state)


def test_networks_in_training_are_not_shown_what_is_no_number():
    norm = torch.nn.BatchNorm1d(3).train()
    _, told = apart.ask(norm, (torch.randn(4, 3),), {}, 2)
    assert not told and norm.running_mean.isfinite().all()


def test_networks_that_write_into_what_they_are_given_are_refused():
    with pytest.raises(CannotProbe, match="writes into what it is given"):
        apart.ask(Net(lambda x, text: x + text.mul_(2)), (torch.ones(2, 3), torch.ones(2, 3)), {}, 2)


def test_dropout_is_refused():
    """Also such as is no module in training."""
    family = FAMILIES["sd"]
    pipe = family.make()
    pipe.unet.conv_out.register_forward_hook(lambda _, __, out: torch.nn.functional.dropout(out, 0.5))
    with pytest.raises(CannotProbe, match="asked apart differs"):
        probed(pipe, family.call())


def test_pipelines_that_cannot_make_two_pictures_are_asked_for_one():
    """PRX's own call for several pictures fails with real networks; its rows can still be asked together."""
    family = FAMILIES["prx"]
    prior = probed(family.make(), family.call())
    assert "transformer" in prior._recorder.doubted
