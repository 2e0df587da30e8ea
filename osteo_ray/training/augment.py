"""Training crops varied as scanners and patients vary them (plain torch): size, place, resolution, noise, HU scale.

    x, gain, offset = augment(crops, AugmentConfig())     # a measured HU becomes hu * gain + offset

What a crop is to teach stays true: HU moves only within the scanners' own tolerance, and its target with it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from osteo_ray.training.config import AugmentConfig

AIR = -1024.0


def augment(crops: torch.Tensor, cfg: AugmentConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Crops [n, S, S] in HU -> the same varied, each differently, and the gain [n] and offset [n] of its HU scale."""
    x = _moved(crops.float()[:, None], cfg)
    n = len(x)
    if cfg.coarse > 1 and torch.rand(()) < 0.3:
        side = x.shape[-1]
        low = max(8, round(side / _between(1.0, cfg.coarse)))
        x = F.interpolate(F.interpolate(x, (low, low), mode="area"), (side, side), mode="bilinear")
    if cfg.blur_px or cfg.sharpen:
        smooth = _blurred(x, max(0.3, _between(0.3, max(cfg.blur_px, 0.31))))
        # From fully smoothed (-1) to edges raised by `sharpen`; half of the crops stay nearly as they are.
        amount = torch.where(
            torch.rand(n, 1, 1, 1, device=x.device) < 0.5,
            -torch.rand(n, 1, 1, 1, device=x.device) * float(cfg.blur_px > 0),
            torch.rand(n, 1, 1, 1, device=x.device) ** 2 * cfg.sharpen,
        )
        x = x + amount * (x - smooth)
    x = x[:, 0]
    if cfg.couch_share:
        x = _with_couch(x, cfg.couch_share)
    gain = 1 + cfg.gain * (2 * torch.rand(n, device=x.device) - 1)
    offset = cfg.offset_hu * (2 * torch.rand(n, device=x.device) - 1)
    inside = x > -900  # air is what scanners agree on
    x = torch.where(inside, x * gain[:, None, None] + offset[:, None, None], x)
    if cfg.noise_hu:
        sigma = cfg.noise_hu * torch.rand(n, 1, 1, device=x.device)
        grain = F.avg_pool2d(torch.randn(n, 1, *x.shape[1:], device=x.device), 3, 1, 1)[:, 0] * 2.5
        fine = torch.rand(n, 1, 1, device=x.device)
        x = x + sigma * (fine * torch.randn_like(x) + (1 - fine) * grain)
    return x, gain, offset


def _moved(x: torch.Tensor, cfg: AugmentConfig) -> torch.Tensor:
    """Mirrored, turned, resized and shifted."""
    n, side = len(x), x.shape[-1]
    angle = math.radians(cfg.rotation_deg) * (2 * torch.rand(n, device=x.device) - 1)
    size = 1 + cfg.zoom * (2 * torch.rand(n, device=x.device) - 1)
    mirror = torch.where(torch.rand(n, device=x.device) < 0.5, -1.0, 1.0)
    shift = (2 * torch.rand(2, n, device=x.device) - 1) * cfg.shift_px * 2 / side
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    theta = torch.stack([cos * mirror, -sin, shift[0], sin * mirror, cos, shift[1]], -1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 1, side, side], align_corners=False)
    return F.grid_sample(x - AIR, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + AIR


def _blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = max(1, math.ceil(2.5 * sigma))
    at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    k = torch.exp(-0.5 * (at / sigma) ** 2)
    k = k / k.sum()
    y = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), k[None, None, None])
    return F.conv2d(F.pad(y, (0, 0, radius, radius), mode="replicate"), k[None, None, :, None])


def _with_couch(x: torch.Tensor, share: float) -> torch.Tensor:
    """A couch's shell and cushion in the last rows of some crops; only what is air changes."""
    n, side = len(x), x.shape[-1]
    depth = torch.randint(1, 6, (n, 1), device=x.device)
    row = torch.arange(side, device=x.device)[None]
    chosen = torch.rand(n, 1, device=x.device) < share
    shell = (row == side - depth) & chosen
    below = (row > side - depth) & chosen
    hu = torch.where(shell, -250.0, -930.0) * (shell | below)
    drawn = (shell | below)[:, :, None] & (x < -700)
    return torch.where(drawn, hu[:, :, None].expand_as(x), x)


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
