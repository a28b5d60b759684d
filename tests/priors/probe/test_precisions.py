"""Pipelines in bfloat16 and float16: what is found from rounded numbers is what the float32 pipeline gives, exactly."""

import pytest
import torch
from exact_priors import relative
from families import FAMILIES
from families.asking import model_output, probed, request, wrapped
from families.running import own_run


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "flux-cfg", "qwen-image"])
def test_layout_and_codec_are_those_of_float32(name, dtype):
    family = FAMILIES[name]
    exact, told = probed(name)
    prior = wrapped(family, family.make(dtype=dtype), dtype=dtype)
    assert prior.layout == exact.layout and prior.dtype == dtype
    for part in ("_factor", "_shift"):
        got, wanted = (torch.as_tensor(getattr(p.codec._normalisation, part)) for p in (prior, exact))
        assert torch.equal(got, wanted), part
    assert prior.scale == exact.scale
    rounded = prior.told(request(family))
    assert rounded.guidance == told.guidance and (rounded.uncond is None) == (told.uncond is None)
    run = own_run(name, dtype=dtype)
    given = run.samples[0] if run.inputs[0] is None else run.inputs[0]
    x, t = prior.layout.unpacked(given).float(), torch.as_tensor(run.times[0]).reshape(1)
    with torch.no_grad():
        raw = prior.raw(x, t, *(c for c in (rounded.cond, rounded.uncond) if c is not None))
    assert relative(prior.layout.packed(model_output(prior, rounded, raw.float())), run.outputs[0].float()) < 2e-2
    assert prior.steps(4).timesteps.tolist() == exact.steps(4).timesteps.tolist()
