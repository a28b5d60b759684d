"""SyncVC from DESIGN.md's formulas alone: nothing of fastsync, autograd of the whole loss, torch's own Adam."""

import torch


def run_syncvc(
    eps_fn,
    scheduler,
    steps,
    x,
    canvas_size,
    origins,
    cond,
    uncond=None,
    scale=1.0,
    *,
    iterations=5,
    lr=0.02,
    w=1.0,
    kappa=1.0,
    gamma=1.0,
    inv_lambda=5.0,
    cost=0.0,
    kl_scheme="none",
    coupling="published",
    eta=0.0,
    noise=None,
    order=None,
    reward=None,
    maps=None,
    signs=None,
):
    """Views [N, C, h, w] after ``steps`` steps from x (leading spacing, epsilon prediction), and the painted canvas.

    ``noise`` is [T, 1, C, H, W]; windows start at ``origins`` (y, x) and wrap around the canvas's borders.
    With ``maps`` view i shows ``signs[i] * canvas[rows, columns]`` for ``maps[i] = (rows, columns)`` instead.
    """
    n, channels, height, width = x.shape
    order = list(range(n)) if order is None else order
    signs = [1.0] * n if signs is None else signs
    where = maps or [
        (
            (torch.arange(y, y + height) % canvas_size[0])[:, None].expand(height, width),
            (torch.arange(s, s + width) % canvas_size[1])[None, :].expand(height, width),
        )
        for y, s in origins
    ]
    abar = scheduler.alphas_cumprod.double()
    stride = 1000 // steps
    times = [k * stride + scheduler.config.steps_offset for k in reversed(range(steps))]
    lines = torch.log(abar.sqrt() / (1 - abar).sqrt())

    def guided(value, i, t):
        time = torch.tensor([t])
        conditional = eps_fn(value[None], time, cond[i : i + 1])[0]
        if uncond is None:
            return conditional
        unconditional = eps_fn(value[None], time, uncond[i : i + 1])[0]
        return unconditional + scale * (conditional - unconditional)

    def painted(states, earlier):
        """What the views done so far paint on the canvas, NaN where there is nothing."""
        picture = torch.full((channels, *canvas_size), float("nan"), dtype=torch.float64)
        for j in earlier:
            picture[:, where[j][0], where[j][1]] = signs[j] * states[j]
        return picture

    x = list(x)
    for k, t in enumerate(times):
        previous = t - stride
        ab, ab_next = abar[t], abar[previous] if previous >= 0 else scheduler.final_alpha_cumprod.double()
        a, b, a_s, b_s = ab.sqrt(), (1 - ab).sqrt(), ab_next.sqrt(), (1 - ab_next).sqrt()
        sigma = eta * ((1 - ab_next) / (1 - ab) * (1 - ab / ab_next)).sqrt()
        along = (b_s**2 - sigma**2).clamp(min=0).sqrt()
        if coupling == "published":
            strength = inv_lambda * t / times[0] / b
        else:
            following = times[k + 1] if k + 1 < steps else 0
            pull = sum(s / times[0] * (lines[s - 1] - lines[s]) for s in range(following + 1, t + 1))
            strength = (1 - torch.exp(-inv_lambda * pull)) / (a_s / a - along / b) / b
        weight = kappa * ((along - a_s * b / a) ** 2 if kl_scheme == "ddim" else 1.0)
        clean, after = {}, list(x)
        for position, i in enumerate(order):
            earlier = order[:position]
            target_x = signs[i] * painted(x, earlier)[:, where[i][0], where[i][1]]
            target_0 = signs[i] * painted(clean, earlier)[:, where[i][0], where[i][1]]
            mask = (~torch.isnan(target_x)).double()
            target_x, target_0 = target_x.nan_to_num(), target_0.nan_to_num()
            u = torch.zeros_like(x[i], requires_grad=True)
            if position or reward:
                with torch.no_grad():
                    free = guided(x[i], i, t)
                adam = torch.optim.Adam([u], lr=1.0, betas=(0.9, 0.999), eps=1e-8)
                for iteration in range(iterations):
                    adam.param_groups[0]["lr"] = lr(iteration) if callable(lr) else lr
                    moved = x[i] + gamma * u
                    eps = guided(moved, i, t)
                    x0 = (moved - b * eps) / a
                    coupled = eps + mask * (moved - target_x) * strength
                    loss = w * (mask * (x0 - target_0)).pow(2).sum()
                    loss = loss + weight * (coupled - free).pow(2).sum() + cost * (gamma * u).pow(2).sum()
                    if reward:
                        loss = loss - reward(x0, [clean[j] for j in earlier], i)
                    adam.zero_grad()
                    loss.backward()
                    adam.step()
            with torch.no_grad():
                moved = x[i] + gamma * u
                eps = guided(moved, i, t)
                clean[i] = (moved - b * eps) / a
                coupled = eps + mask * (moved - target_x) * strength
                after[i] = a_s * (moved - b * coupled) / a + along * coupled
                if noise is not None:
                    after[i] = after[i] + sigma * signs[i] * noise[k][0][:, where[i][0], where[i][1]]
        x = after
    return torch.stack(x), painted(x, order)[None]
