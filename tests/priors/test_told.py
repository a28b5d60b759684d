"""What a prior makes of a task's request, how it is wrapped, and what it says of itself."""

import pytest
import tiny_families as families
import tiny_pipelines as tiny
import torch

import fastsync as fs
from fastsync import priors
from fastsync.priors import ViewRequest
from fastsync.priors.probe import Recorder
from fastsync.priors.probe.calling import Calling

PROMPTS = ["a cat", "a dog", "grey"]


def same(told, expected):
    assert set(told) == set(expected)
    for name, value in told.items():
        assert torch.equal(value, expected[name]), name


def test_it_is_prompts_places_and_guidance():
    prior = priors.wrap(families.make_xl_pipeline())
    guidance, places = fs.Guidance(3.0, interval=(0.0, 0.5)), [(0, 0), (0, 8), (0, 16)]
    told = prior.told(ViewRequest(3, PROMPTS, "red", guidance, places, (16, 32)))
    ids = torch.tensor([[16.0, 32.0, y, x, 16.0, 16.0] for y, x in places])
    for half, texts in ((told.cond, PROMPTS), (told.uncond, ["red"] * 3)):
        with torch.no_grad():
            text, _, pooled, _ = prior.pipe.encode_prompt(texts, do_classifier_free_guidance=True)
        torch.testing.assert_close(half["unet.encoder_hidden_states"], text)
        torch.testing.assert_close(half["unet.added_cond_kwargs.text_embeds"], pooled)
        assert torch.equal(half["unet.added_cond_kwargs.time_ids"], ids)
    assert told.guidance == guidance and told.start is None and told.scale == 3.0


def test_it_is_prompts_and_control():
    prior, control = priors.wrap(tiny.make_control_pipeline()), torch.rand(3, 3, 16, 16)
    told = prior.told(ViewRequest(3, ["a cat"], control=control))
    cond, uncond = prior.with_control(*prior.encode_prompt(["a cat"]), control)
    same(told.cond, cond), same(told.uncond, uncond)
    assert told.guidance == fs.Guidance(7.5)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_guidance_that_has_no_effect_leaves_the_other_half_out(scale):
    told = priors.wrap(tiny.make_pipeline()).told(ViewRequest(1, ["a cat"], guidance=fs.Guidance(scale)))
    assert told.uncond is None and told.guidance == fs.Guidance(scale)


def test_a_told_guidance_is_recorded_as_it_was_asked_for():
    prior = priors.wrap(families.make_flux_pipeline())
    for asked, scale in ((None, 3.5), (fs.Guidance(6.0), 6.0)):
        told = prior.told(ViewRequest(1, ["a cat"], guidance=asked))
        assert told.cond["transformer.guidance"].tolist() == [scale] and told.uncond is None and told.scale == scale


def test_a_backdrop_passes_the_request_on():
    prior = priors.wrap(tiny.make_control_pipeline())
    over = priors.BackdropPrior(prior)
    request = ViewRequest(2, PROMPTS[:2], control=torch.rand(2, 1, 16, 16))
    same(over.told(request).cond, prior.told(request).cond)
    assert over.takes_control and over.way == "adapter" and over.window_pixels == (16, 16)
    assert repr(over).splitlines()[1:] == repr(prior).splitlines()[1:]


@pytest.mark.parametrize(
    "request_, message",
    [
        (
            ViewRequest(1, None),
            "prompt must be a string or a list of strings, got None: DiffusersPrior has nothing else",
        ),
        (ViewRequest(1, ["a"], control=torch.zeros(1, 3, 16, 16)), "StableDiffusionPipeline is shown no picture"),
        (ViewRequest(1, ["a"], pipe_kwargs={"clip_skip": 1}), "pipe_kwargs has 'clip_skip', but DiffusersPrior"),
    ],
)
def test_what_an_adapter_does_not_know_is_one_sentence(request_, message):
    with pytest.raises(ValueError, match=message) as caught:
        priors.wrap(tiny.make_pipeline()).told(request_)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_control_that_is_missing_is_one_sentence():
    with pytest.raises(ValueError, match="is shown a picture of each view beside the prompt, got none: pass control"):
        priors.wrap(tiny.make_control_pipeline()).told(ViewRequest(1, ["a"]))


def test_values_by_view():
    values = fs.ByView([1, None, "a"])
    assert len(values) == 3 and list(values) == [1, None, "a"] and values[2] == "a"
    assert repr(values) == "ByView of 3 values"
    for wrong in ([], "abc", 5, {1: 2}):
        with pytest.raises(TypeError, match="ByView takes a list with one value a view"):
            fs.ByView(wrong)


# ---- wrapping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, window, cells",
    [
        (tiny.make_pipeline, (12, 20), (6, 10)),
        (tiny.make_pixel_pipeline, (8, 12), (8, 12)),
        (families.make_xl_pipeline, (16, 16), (8, 8)),
        (families.make_flux_pipeline, (8, 20), (4, 10)),
    ],
)
def test_windows_are_in_pixels(make, window, cells):
    prior = priors.wrap(make(), window=window)
    assert prior.window == cells and prior.window_pixels == window
    assert priors.wrap(make(), window=list(window)).window == cells


def test_windows_fill_the_networks_cells():
    for side in (1, 2, 3, 10):
        with pytest.raises(ValueError, match=f"the window's width must be a multiple of 4 pixels for .*, got {side}:"):
            priors.wrap(tiny.make_pipeline(), window=(16, side))
    with pytest.raises(ValueError, match="window is 16 x 18 pixels, and FluxPipeline makes views of 16 x 16 of it"):
        priors.wrap(families.make_flux_pipeline(), window=(16, 18))


def test_names_of_the_pipelines_own_call():
    def asked(pipe, names):
        return Calling(Recorder(pipe), None, names, None)

    pipe = families.make_flux_pipeline()
    asked(pipe, {"true_cfg_scale": 2.0, "max_sequence_length": 8})
    with pytest.raises(
        ValueError, match="'clip_skip', which the call of FluxPipeline does not take: it takes prompt_2, .*true"
    ):
        asked(pipe, {"clip_skip": 1})
    for wrong in ([1], {1: 2}, "clip_skip"):
        with pytest.raises(TypeError, match="pipe_kwargs must be a dictionary"):
            asked(pipe, wrong)
    with pytest.raises(ValueError, match="pipe_kwargs has 'guidance_scale', which fastsync sets itself"):
        asked(pipe, {"guidance_scale": 2.0})

    class Handing(type(pipe)):
        """One argument of its own, the rest of its base class."""

        def __call__(self, colour=None, **kwargs):
            return super().__call__(**kwargs)

    handing = Handing(**pipe.components)
    asked(handing, {"colour": 1, "true_cfg_scale": 2.0})
    with pytest.raises(
        ValueError, match="'clip_skip', which the call of Handing does not take: it takes colour, prompt_2"
    ):
        asked(handing, {"clip_skip": 1})


# ---- repr ---------------------------------------------------------------------------------------------------------


def test_a_prior_says_what_is_known_of_it():
    text = repr(priors.wrap(families.make_xl_pipeline(), window=(16, 24)))
    assert text.splitlines() == [
        "ProbedPrior of StableDiffusionXLPipeline",
        "  asked by    probe",
        "  window      16 x 24 pixels, views [4, 8, 12]",
        "  scheduler   EulerDiscreteScheduler, run as euler",
        "  network     float32 on cpu",
        "  guidance    u + 5 (c - u) of halves of one call",
        "  control     none",
        "  call 1      unet(0: state [4, 8, 12], 1: t, encoder_hidden_states: rows, "
        "added_cond_kwargs: {text_embeds: rows, time_ids: rows}, return_dict: False)",
        "  state       views [4, 8, 12]",
    ]
    assert "control     a picture of each view" in repr(priors.wrap(tiny.make_control_pipeline()))
    by_ddim = repr(priors.wrap(families.make_xl_pipeline(), solver="ddim"))
    assert "EulerDiscreteScheduler, run as ddim" in by_ddim
    assert repr(fs.SyncPipeline(tiny.make_pipeline()).prior).startswith("DiffusersPrior of StableDiffusionPipeline\n")
