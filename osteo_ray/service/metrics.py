"""Prometheus metrics. Counts of screenings and series are read from the folders, so every replica tells the same;
requests and their times are each replica's own, which Prometheus adds up.
"""

from __future__ import annotations

import os
from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from osteo_ray.service.runs import Runs, RunState

SECONDS = (0.005, 0.02, 0.1, 0.3, 1, 3, 10, 30, 120)


class Metrics:
    """One replica's registry."""

    def __init__(self, runs: Runs):
        self.runs = runs
        r = self.registry = CollectorRegistry()
        self.requests = Counter("osteo_ray_requests", "Answers", ["method", "route", "status"], registry=r)
        self.seconds = Histogram("osteo_ray_request_seconds", "Time", ["method", "route"], registry=r, buckets=SECONDS)
        self.scored = Counter("osteo_ray_studies_scored", "Studies by outcome", ["state"], registry=r)
        self._screenings = Gauge("osteo_ray_screenings", "Screenings by state", ["state"], registry=r)
        self._series = Gauge("osteo_ray_series", "Series of all screenings by outcome", ["state"], registry=r)
        Gauge("osteo_ray_process", "This replica's process", ["pid"], registry=r).labels(str(os.getpid())).set(1)

    def text(self) -> bytes:
        states: Tally[str] = Tally({s.value: 0 for s in RunState})
        series: Tally[str] = Tally()
        for run in self.runs.all():
            p = run.progress()
            states[p.state.value] += 1
            series.update(p.counts)
        for s, n in states.items():
            self._screenings.labels(s).set(n)
        for s, n in series.items():
            self._series.labels(s).set(n)
        return generate_latest(self.registry)
