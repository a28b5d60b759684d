"""Bad input: one sentence that says what was given and what is needed, before the network is called."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

import fastsync as fs

NAN, INF = float("nan"), float("inf")
WINDOW, SIZE, N = (4, 4), (4, 10), 3


def ddim(**changes):
    return DDIMScheduler(**{"clip_sample": False, **changes})


def network(x, t, cond):
    raise AssertionError("the network was called before the input was checked")


def prior(**changes):
    return fs.FunctionPrior(**{"eps_fn": network, "scheduler": ddim(), "view_shape": (2, *WINDOW), **changes})


def sample(method=None, prior_=None, canvas=None, **arguments):
    return fs.sample(
        prior() if prior_ is None else prior_,
        fs.WideCanvas(SIZE, WINDOW, 3) if canvas is None else canvas,
        fs.MultiDiffusion() if method is None else method,
        **arguments,
    )


def wide(size=SIZE, window=WINDOW, stride=3, **rest):
    return fs.WideCanvas(size, window, stride, **rest)


def ones(*shape, fill=1.0):
    return torch.full(shape, fill)


def unknown_prediction():
    scheduler = ddim()
    scheduler.register_to_config(prediction_type="score")
    return scheduler


# call, what the sentence must contain: the given thing and the needed one
CASES = {
    # canvas
    "negative size": (lambda: wide((-4, 10)), ["size[0]", "-4", "at least 1"]),
    "zero size": (lambda: wide((4, 0)), ["size[1]", "0", "at least 1"]),
    "float size": (lambda: wide((4.0, 10)), ["size[0]", "4.0", "whole number"]),
    "bool size": (lambda: wide((True, 10)), ["size[0]", "True", "whole number"]),
    "nan size": (lambda: wide((NAN, 10)), ["size[0]", "nan", "whole number"]),
    "size not a pair": (lambda: wide((4, 10, 1)), ["size", "(4, 10, 1)", "pair"]),
    "size a number": (lambda: wide(4), ["size", "4", "pair"]),
    "size text": (lambda: wide("ab"), ["size", "'ab'", "pair"]),
    "size None": (lambda: wide(None), ["size", "None", "pair"]),
    "size a tensor": (lambda: wide(torch.ones(30, 30)), ["size", "tensor(", "pair"]),
    "zero window": (lambda: wide(window=(0, 4)), ["window[0]", "0", "at least 1"]),
    "negative stride": (lambda: wide(stride=-3), ["stride", "-3", "at least 1"]),
    "zero stride": (lambda: wide(stride=(1, 0)), ["stride[1]", "0", "at least 1"]),
    "float stride": (lambda: wide(stride=2.5), ["stride", "2.5", "whole number"]),
    "stride of three": (lambda: wide(stride=(1, 2, 3)), ["stride", "(1, 2, 3)", "pair"]),
    "canvas lower than a window": (lambda: wide((3, 10)), ["height", "3", "4"]),
    "canvas narrower than a window": (lambda: wide((4, 3)), ["width", "3", "4"]),
    "stride larger than the window": (lambda: wide(stride=5), ["stride", "5", "4"]),
    "stride larger in y": (lambda: wide((12, 10), stride=(5, 3)), ["stride", "height", "5", "4"]),
    "stride larger in a loop": (lambda: wide((4, 4), stride=5, loop=True), ["stride", "5", "4"]),
    "loop not a direction": (lambda: wide(loop="z"), ["loop", "'z'", "True or False", "'x', 'y' or 'xy'"]),
    "loop a number": (lambda: wide(loop=1), ["loop", "1", "True or False", "'x', 'y' or 'xy'"]),
    "stride larger in a loop in y": (lambda: wide((4, 4), stride=5, loop="y"), ["height", "stride", "5", "4"]),
    # prior
    "eps_fn not callable": (lambda: prior(eps_fn=3), ["eps_fn", "int", "callable"]),
    "unknown scheduler": (
        lambda: prior(scheduler=EDMEulerScheduler()),
        ["EDMEulerScheduler", "DDIM", "FlowMatchEulerDiscrete"],
    ),
    "scheduler of another form": (lambda: prior(scheduler=PNDMScheduler()), ["PNDMScheduler", "solver='ddim'"]),
    "scheduler None": (lambda: prior(scheduler=None), ["NoneType", "DDIM"]),
    "scheduler a name": (lambda: prior(scheduler="ddim"), ["str", "DDIM"]),
    "unknown prediction type": (lambda: prior(scheduler=unknown_prediction()), ["'score'", "epsilon", "v_prediction"]),
    "dynamic shifting": (
        lambda: sample(prior_=prior(scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))),
        ["use_dynamic_shifting=True", "mu", "use_dynamic_shifting=False"],
    ),
    "view_shape of two": (lambda: prior(view_shape=(4, 4)), ["view_shape", "(4, 4)", "(C, h, w)"]),
    "view_shape negative": (lambda: prior(view_shape=(2, -4, 4)), ["view_shape[1]", "-4", "at least 1"]),
    "view_shape float": (lambda: prior(view_shape=(2, 4.0, 4)), ["view_shape[1]", "4.0", "whole number"]),
    "dtype a name": (lambda: prior(dtype="float32"), ["dtype", "'float32'", "torch.float32"]),
    "dtype an integer's": (lambda: prior(dtype=torch.int64), ["dtype", "torch.int64", "floating-point"]),
    "device unknown": (lambda: prior(device="abacus"), ["device", "'abacus'", "'cpu'"]),
    "device without numbers": (lambda: prior(device="meta"), ["device", "'meta'", "'cpu'"]),
    "device None": (lambda: prior(device=None), ["device", "None", "'cpu'"]),
    "uncond alone": (
        lambda: prior().predict(ones(3, 2, *WINDOW), torch.tensor([5]), None, ones(3, 5), 2.0),
        ["uncond", "without cond"],
    ),
    # method
    "unknown weights": (lambda: fs.MultiDiffusion(weights="round"), ["weights", "'round'", "'uniform'", "'gaussian'"]),
    "weights a tensor": (lambda: fs.MultiDiffusion(weights=ones(4, 4)), ["weights", "tensor(", "'uniform'"]),
    "unknown composite": (lambda: fs.SyncVC(composite="under"), ["composite", "'under'", "'over'", "'merge'"]),
    "composite an array": (lambda: fs.SyncVC(composite=np.ones(2)), ["composite", "array(", "'over'"]),
    "unknown kl_scheme": (lambda: fs.SyncVC(kl_scheme="x"), ["kl_scheme", "'x'", "'none'", "'ddim'"]),
    "unknown coupling": (lambda: fs.SyncVC(coupling="x"), ["coupling", "'x'", "'stable'"]),
    "negative iterations": (lambda: fs.SyncVC(iterations=-1), ["iterations", "-1", "at least 0"]),
    "float iterations": (lambda: fs.SyncVC(iterations=1.5), ["iterations", "1.5", "whole number"]),
    "negative lr": (lambda: fs.SyncVC(lr=-0.1), ["lr", "-0.1", "at least 0"]),
    "lr nan": (lambda: fs.SyncVC(lr=NAN), ["lr", "nan", "finite"]),
    "lr for another number of iterations": (lambda: fs.SyncVC(lr=[0.1, 0.05]), ["lr", "5", "got 2"]),
    "lr text": (lambda: fs.SyncVC(lr="fast"), ["lr", "'fast'", "number"]),
    "reward_weight infinite": (lambda: fs.SyncVC(reward_weight=INF), ["reward_weight", "inf", "finite"]),
    "kl_weight negative": (lambda: fs.SyncVC(kl_weight=-1), ["kl_weight", "-1", "at least 0"]),
    "inv_lambda negative": (lambda: fs.SyncVC(inv_lambda=-1), ["inv_lambda", "-1", "at least 0"]),
    "control_strength None": (lambda: fs.SyncVC(control_strength=None), ["control_strength", "None", "number"]),
    "rewards not functions": (lambda: fs.SyncVC(rewards=[3]), ["rewards", "[3]", "functions"]),
    "a reward, not a list": (lambda: fs.SyncVC(rewards=print), ["rewards", "print", "functions"]),
    "view_order short": (lambda: sample(fs.SyncVC(view_order=[0, 1])), ["view_order", "[0, 1]", "3"]),
    "view_order repeats": (lambda: sample(fs.SyncVC(view_order=[0, 1, 1])), ["view_order", "[0, 1, 1]", "3"]),
    "view_order out of range": (lambda: sample(fs.SyncVC(view_order=[0, 1, 3])), ["view_order", "[0, 1, 3]", "3"]),
    "view_order negative": (lambda: fs.SyncVC(view_order=[0, 1, -1]), ["view_order", "-1", "at least 0"]),
    "view_order a number": (lambda: fs.SyncVC(view_order=3), ["view_order", "3"]),
    "view_order floats": (lambda: fs.SyncVC(view_order=[0.0, 1.0]), ["view_order", "0.0", "whole number"]),
    "method's class": (lambda: sample(fs.SyncVC), ["SyncVC", "instance"]),
    "method's name": (lambda: sample("syncvc"), ["'syncvc'", "fastsync.SyncVC()"]),
    # sample
    "prior a function": (lambda: sample(prior_=network), ["prior", "network", "FunctionPrior"]),
    "prior's class": (lambda: sample(prior_=fs.FunctionPrior), ["prior", "FunctionPrior"]),
    "canvas a pair": (lambda: sample(canvas=SIZE), ["canvas", "(4, 10)", "WideCanvas"]),
    "canvas's class": (lambda: sample(canvas=fs.WideCanvas), ["canvas", "WideCanvas"]),
    "another view shape": (lambda: sample(canvas=wide((5, 10), (5, 5))), ["[5, 5]", "[2, 4, 4]"]),
    "latents' channels": (lambda: sample(latents=ones(1, 3, *SIZE)), ["latents", "[1, 3, 4, 10]", "[1, 2, 4, 10]"]),
    "latents' size": (lambda: sample(latents=ones(1, 2, 4, 9)), ["latents", "[1, 2, 4, 9]", "[3, 2, 4, 4]"]),
    "latents' views": (lambda: sample(latents=ones(2, 2, 4, 4)), ["latents", "[2, 2, 4, 4]", "[3, 2, 4, 4]"]),
    "latents nan": (lambda: sample(latents=ones(1, 2, *SIZE, fill=NAN)), ["latents", "80", "NaN", "finite"]),
    "latents infinite": (lambda: sample(latents=ones(1, 2, *SIZE, fill=-INF)), ["latents", "infinite", "finite"]),
    "latents integers": (lambda: sample(latents=ones(1, 2, *SIZE).long()), ["latents", "int64", "floating-point"]),
    "latents an array": (lambda: sample(latents=np.ones((1, 2, *SIZE))), ["latents", "ndarray", "torch.Tensor"]),
    "two conditions": (lambda: sample(cond=ones(2, 5)), ["cond", "[2, 5]", "1", "3"]),
    "no conditions": (lambda: sample(cond=ones(0, 5)), ["cond", "[0, 5]", "1", "3"]),
    "a scalar condition": (lambda: sample(cond=torch.tensor(1.0)), ["cond", "[]", "a row for each view"]),
    "a condition nan": (lambda: sample(cond=ones(1, 5, fill=NAN)), ["cond", "5", "NaN"]),
    "a condition text": (lambda: sample(cond="a cat"), ["cond", "str", "torch.Tensor"]),
    "four unconds": (lambda: sample(cond=ones(1, 5), uncond=ones(4, 5)), ["uncond", "[4, 5]", "3"]),
    "uncond without cond": (lambda: sample(uncond=ones(1, 5)), ["uncond", "without cond", "pass cond"]),
    "uncond of another shape": (lambda: sample(cond=ones(1, 5), uncond=ones(1, 6)), ["[5]", "[6]", "same shape"]),
    "guidance nan": (lambda: sample(guidance_scale=NAN), ["guidance_scale", "nan", "finite"]),
    "guidance infinite": (lambda: sample(guidance_scale=INF), ["guidance_scale", "inf", "finite"]),
    "guidance text": (lambda: sample(guidance_scale="7.5"), ["guidance_scale", "'7.5'", "number"]),
    "no steps": (lambda: sample(num_inference_steps=0), ["num_inference_steps", "0", "at least 1"]),
    "negative steps": (lambda: sample(num_inference_steps=-5), ["num_inference_steps", "-5", "at least 1"]),
    "float steps": (lambda: sample(num_inference_steps=5.0), ["num_inference_steps", "5.0", "whole number"]),
    "too many steps": (lambda: sample(num_inference_steps=1001), ["num_inference_steps", "1001", "at most 1000"]),
    "eta negative": (lambda: sample(eta=-0.1), ["eta", "-0.1", "at least 0"]),
    "eta above 1": (lambda: sample(eta=1.5), ["eta", "1.5", "at most 1"]),
    "eta nan": (lambda: sample(eta=NAN), ["eta", "nan", "finite"]),
    "generator a seed": (lambda: sample(generator=0), ["generator", "0", "torch.Generator"]),
    "generators": (lambda: sample(generator=[torch.Generator()]), ["generator", "[<torch", "torch.Generator"]),
    "max_batch 0": (lambda: sample(max_batch=0), ["max_batch", "0", "at least 1"]),
    "max_batch float": (lambda: sample(max_batch=2.0), ["max_batch", "2.0", "whole number"]),
    "unknown order": (lambda: sample(order="random"), ["order", "'random'", "'sequential'", "'batched'"]),
    "order not a name": (lambda: sample(order=["batched"]), ["order", "['batched']", "'sequential'"]),
    "order impossible": (lambda: sample(order="wavefront"), ["'wavefront'", "MultiDiffusion", "'batched'"]),
    "callback not callable": (lambda: sample(callback=3), ["callback", "3", "callable"]),
    "published coupling at a = 0": (
        lambda: sample(fs.SyncVC(coupling="published"), prior(scheduler=FlowMatchEulerDiscreteScheduler())),
        ["coupling='published'", "coupling='stable'"],
    ),
    "kl scheme at a = 0": (
        lambda: sample(fs.SyncVC(kl_scheme="ddim"), prior(scheduler=FlowMatchEulerDiscreteScheduler())),
        ["kl_scheme='ddim'", "kl_scheme='none'"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_before_any_network_call(name):
    call, words = CASES[name]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 300, message
    assert message.endswith("."), message
    missing = [word for word in words if word not in message]
    assert not missing, f"{message!r} does not say {missing}"


def test_numbers_of_numpy_are_numbers():
    calls = []
    recorded = prior(eps_fn=lambda x, t, c: calls.append(t) or x * 0.1)
    sample(
        prior_=recorded, num_inference_steps=np.int64(2), eta=np.float32(0.5), guidance_scale=np.float64(2.0),
        max_batch=np.int32(2),
    )  # fmt: skip
    assert len(calls) == 4


@pytest.mark.parametrize(
    "answer, words",
    [
        ({"latents": torch.zeros(1, 2, 4, 4)}, ["[3, 2, 4, 4]", "[1, 2, 4, 4]"]),
        ({"latents": torch.full((3, 2, 4, 4), NAN)}, ["NaN"]),
        ({"latents": [1]}, ["list", "torch.Tensor"]),
        (torch.zeros(3, 2, 4, 4), ["tensor", "{'latents': tensor}"]),
    ],
)
def test_what_a_callback_returns_is_checked(answer, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        sample(
            prior_=prior(eps_fn=lambda x, t, c: 0.1 * x), num_inference_steps=2, callback=lambda step, t, state: answer
        )
    assert all(word in str(caught.value) for word in ["callback", *words])
