"""How many scorers, readers and finishers: as many as fit on a cluster (no Ray here).

pool = pool_of(cfg.pipeline, batches, nodes_of_cluster)     # [{"CPU": 16.0, "memory": 5e10}, ...]
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osteo_ray.outcomes import InputError
from osteo_ray.ray_setup import fitting
from osteo_ray.screening.config import PipelineConfig

SCORER_MB = 700
"""Memory of a scorer at rest: its actor's imports and its child with the bundle (docs/results/screening-memory.md)."""
SCORERS_PER_READER = 16
"""A reader gives out hundreds of rows a second, a scorer takes a few."""
HELPERS = 2, 64
"""Fewest and most readers, and finishers."""
GROWTH = 4
"""Where nodes may join: as many times what fits today is what readers and finishers are counted for."""
WHERE_UNKNOWN = 256
"""Scorers that they are counted for where no node has started yet."""
SCORERS_OF_A_DRIVER = 32
"""Scorers that one driver gives a batch at a time; where there are more, a task holds several."""
TASKS_OF_A_SCORER = 8
"""Fewest tasks, however many batches each would take: the last ones of a run keep all scorers busy."""
RAY_SHARE = 0.7
"""Of a machine's memory, what Ray gives to tasks and actors; the rest is for its object store."""


@dataclass(frozen=True)
class TaskSize:
    """What a scorer is given at a time. `series`: scored together, and in one part file."""

    series: int
    batches: int = 1


@dataclass(frozen=True)
class Pool:
    """What a run asks of Ray. Scorers: from one to `most`, `start` of them at first."""

    start: int
    most: int
    cpus: float
    gpus: float
    memory: int  # bytes of one scorer
    helpers: int  # read tasks at a time, and finishing ones
    task: TaskSize

    @property
    def waits(self) -> bool:
        """No node has the resources of a scorer."""
        return not self.start


def pool_of(p: PipelineConfig, batches: int, nodes: Sequence[Mapping[str, float]], grows: bool) -> Pool:
    """The pool for so many batches on these nodes.

    Args:
        nodes: each node's resources, as Ray names them.
        grows: nodes may join.

    Raises:
        InputError: no node will ever have the resources of one scorer.
    """
    working = [n for n in nodes if n.get("CPU", 0) > 0]
    memory = (p.actor_memory_mb or SCORER_MB + p.limits.series_memory_mb) * 2**20
    if working:  # one scorer has to fit on the largest node, however small that is: its limits still hold
        memory = min(memory, int(max(n.get("memory", memory) for n in working)))
    fit = sum(fitting(n, p.actor_cpus, p.actor_gpus, memory) for n in working)
    if not fit and not grows:
        for key, unit, asked in (("actor_gpus", "GPU", p.actor_gpus), ("actor_cpus", "CPU", p.actor_cpus)):
            has = max((n.get(unit, 0.0) for n in nodes), default=0.0)
            if asked > has:
                most_there = f"at most {has:g} {unit}" if has else f"no {unit}"
                raise InputError(f"pipeline.{key}: {asked:g}, but Ray sees {most_there} on a machine; give less")
    most = max(1, batches)
    if p.actors is not None:
        most = min(most, p.actors)
    elif not grows:
        most = min(most, fit)
    full = most if p.actors is not None else min(most, GROWTH * fit or WHERE_UNKNOWN) if grows else most
    low, high = HELPERS
    helpers = min(high, max(low, -(-full // SCORERS_PER_READER)))
    per_task = max(1, min(-(-full // SCORERS_OF_A_DRIVER), batches // (TASKS_OF_A_SCORER * full)))
    task = TaskSize(p.series_per_task, per_task)
    return Pool(min(most, fit), most, p.actor_cpus, p.actor_gpus, memory, helpers, task)


def this_machine() -> list[dict[str, float]]:
    """What a Ray started here would have, about."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [{"CPU": float(cores), "memory": RAY_SHARE * pages}]
