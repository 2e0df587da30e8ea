"""Typed configs of drift and recalibration."""

from __future__ import annotations

from pydantic import Field

from osteo_ray.config import Section


class DriftConfig(Section):
    """When a difference is called a move."""

    alpha: float = Field(0.01, gt=0, lt=0.5, description="chance that a run without drift is called moved")
    resamples: int = Field(300, ge=100, description="bootstrap draws of a median's shift")
    tables: int = Field(10_000, ge=1000, description="simulated tables where a cell is small")
    scale: float = Field(1.0, gt=0, description="times the smallest move worth telling of each quantity")


class SiteConfig(Section):
    """How much a site must bring, and how far it is believed."""

    min_per_class: int = Field(20, ge=10, description="fewest patients with, and without, osteoporosis by DXA")
    slope_sd: float = Field(0.5, gt=0, description="how far from 1 the slope is expected (penalty)")
    intercept_sd: float = Field(
        1.5, gt=0, description="how far from 0 the intercept is expected, in log-odds (penalty)"
    )
    folds: int = Field(10, ge=2, description="parts that the gain is judged on, beyond `leave_one_out` patients")
    leave_one_out: int = Field(300, ge=0, description="up to so many patients each is judged by a fit on all others")
    resamples: int = Field(500, ge=100, description="draws of the bootstrap over patients")
    level: float = Field(0.95, gt=0, lt=1, description="confidence level of the judgement's intervals")
