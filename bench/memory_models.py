"""What memory SDXL, SD3, FLUX and SANA take at their real size, computed without a GPU.

    python -m bench.memory_models [--output FILE]

As in :mod:`bench.memory`: on tensors without data the bytes of all that is alive are added up, in half precision, for
one evaluation of so many views, plain, with the way back to its input, and with that checkpointed. Text encoders are
left out: pipelines can do without them once embeddings are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch._subclasses import FakeTensorMode

from bench.machine import RESULTS, describe, write_json
from bench.memory import peak_of
from bench.models import born
from bench.pipelines import MODELS, Model

VIEWS = (1, 3)
Arguments = Callable[[Model, Any, int], tuple[Tensor, dict[str, Any]]]


def _cells(model: Model, channels: int, cell: int, rows: int) -> Tensor:
    side = model.window // cell
    return torch.zeros(rows, channels, side, side)


def _embeds(model: Model, rows: int) -> list[Tensor]:
    """The conditional half's embeddings, for so many rows, in the order of the model's list."""
    return [torch.zeros(rows, *shape) for name, shape in model.embeds.items() if not name.startswith("negative")]


def _sdxl(model: Model, config: Any, rows: int) -> tuple[Tensor, dict[str, Any]]:
    text, pooled = _embeds(model, rows)
    added = {"text_embeds": pooled, "time_ids": torch.zeros(rows, 6)}
    return _cells(model, config.in_channels, 8, rows), {"encoder_hidden_states": text, "added_cond_kwargs": added}


def _sd3(model: Model, config: Any, rows: int) -> tuple[Tensor, dict[str, Any]]:
    text, pooled = _embeds(model, rows)
    states = {"encoder_hidden_states": text, "pooled_projections": pooled}
    return _cells(model, config.in_channels, 8, rows), states


def _flux(model: Model, config: Any, rows: int) -> tuple[Tensor, dict[str, Any]]:
    text, pooled = _embeds(model, rows)
    tokens = (model.window // 16) ** 2
    states = {"encoder_hidden_states": text, "pooled_projections": pooled, "guidance": torch.zeros(rows)}
    ids = {"img_ids": torch.zeros(tokens, 3), "txt_ids": torch.zeros(text.shape[1], 3)}
    return torch.zeros(rows, tokens, config.in_channels), {**states, **ids}


def _sana(model: Model, config: Any, rows: int) -> tuple[Tensor, dict[str, Any]]:
    text, mask = _embeds(model, rows)
    return _cells(model, config.in_channels, 32, rows), {"encoder_hidden_states": text, "encoder_attention_mask": mask}


# How each network is asked for the views of a picture: its states, and what it is told beside the time.
ASKED: dict[str, Arguments] = {"SDXL": _sdxl, "SD3 medium": _sd3, "FLUX.1": _flux, "SANA 1.6B": _sana}


def account(name: str, model: Model, dtype: torch.dtype, views: tuple[int, ...] = VIEWS) -> dict[str, Any]:
    """Bytes of weights, and peaks of evaluations by number of views.

    Args:
        name: key of ``ASKED``.
        model: of that kind, of any size.
        dtype: of weights and states.
        views: how many in a batch; the network gets ``model.rows`` rows for each.
    """
    with born(torch.device("cpu"), dtype):
        network = model.network[1](**model.network[2]).eval().requires_grad_(False)
        vae = model.vae[0](**model.vae[1])
        weights = {"network": _bytes(network), "autoencoder": _bytes(vae)}
        peaks = {}
        for count in views:
            rows = model.rows * count
            state, told = ASKED[name](model, network.config, rows)
            ask = _Evaluation(network, state, told)
            peaks[str(count)] = {"forward": ask.peak(backward=False), "gradient": ask.peak(backward=True)}
            network.enable_gradient_checkpointing()
            peaks[str(count)]["checkpointed"] = ask.peak(backward=True)
            network.disable_gradient_checkpointing()
    return {"rows": model.rows, "weights": weights, "evaluations": peaks}


class _Evaluation:
    """One call of a network."""

    def __init__(self, network: Any, state: Tensor, told: Mapping[str, Any]) -> None:
        self.network, self.state, self.told = network, state, told
        self.t = torch.full((len(state),), 0.5)

    def peak(self, backward: bool) -> int:
        """Peak bytes; with the way back to the state if ``backward``."""
        x = self.state.detach().requires_grad_(backward)

        def work() -> Tensor:
            raw: Tensor = self.network(x, timestep=self.t, return_dict=False, **self.told)[0]
            return torch.autograd.grad(raw, x, torch.ones_like(raw))[0] if backward else raw

        with torch.set_grad_enabled(backward):
            return peak_of(work)


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def main(output: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULTS / "memory_models.json") -> None:
    """Adds up weights and evaluations of all four."""
    models = {}
    for name, model in MODELS.items():
        with FakeTensorMode():
            models[name] = account(name, model, torch.bfloat16)
        typer.echo(f"{name}: {models[name]}")
    write_json(output, {**describe(), "settings": {"dtype": "bfloat16"}, "models": models})
    typer.echo(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)
