"""What a series costs: CPU seconds and bytes, by one scorer in one process, and what archives cost by that.

    python benchmarks/cost.py --bundle run/bundle --catalogue index/catalogue.parquet --price 0.04

CPU seconds are of the scorer and its decoding child; the models are loaded and warm. Bytes are those the scorer read,
and those of the whole series. `--price` is what a core-hour costs, in whatever currency; prices are the reader's.
"""

from __future__ import annotations

import argparse

import numpy as np
import psutil
import pyarrow.parquet as pq

from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.predictor import Predictor


def cpu() -> float:
    """CPU seconds of this process and its children."""
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(recursive=True)))


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--bundle", required=True)
    p.add_argument("--catalogue", required=True)
    p.add_argument("--price", type=float, default=0.04, help="of a core-hour")
    p.add_argument("--limit", type=int, default=30)
    p.add_argument("--no-shap", action="store_true")
    a = p.parse_args()
    rows = [r for r in pq.read_table(a.catalogue).to_pylist() if r["state"] is None][: a.limit]
    scorer = Predictor.load(a.bundle, ScoringConfig(shap=not a.no_shap))
    values = np.full((1, len(NAMES)), np.nan)
    scorer.score_rows(rows[:1], values)
    seconds, read, whole, decoded, slices = [], [], [], [], []
    for row in rows:
        before = cpu()
        r = scorer.score_rows([row], values)[0]
        seconds.append(cpu() - before)
        if r["bytes_read"] is not None:
            read.append(r["bytes_read"])
            whole.append(row["bytes"])
            decoded.append(r["slices_decoded"])
            slices.append(r["slices_total"])
    s = float(np.mean(seconds))
    print(f"{len(rows)} series, {np.mean(slices):.0f} slices each, {np.mean(decoded):.1f} decoded")
    print(f"{s:.3f} CPU s a series (median {np.median(seconds):.3f}, 95 % {np.quantile(seconds, 0.95):.3f})")
    print(f"{np.mean(read) / 2**20:.2f} MiB read a series of {np.mean(whole) / 2**20:.2f} MiB")
    print(f"{3600 / s:.0f} series a core-hour")
    for n in (10**6, 10**7):
        hours = n * s / 3600
        print(f"{n:.0e} series: {hours:,.0f} core-hours, {hours * a.price:,.0f} at {a.price} a core-hour, "
              f"{n * np.mean(read) / 2**40:.2f} TiB moved, {hours / 1600:.1f} h on 100 nodes of 16 cores")  # fmt: skip


if __name__ == "__main__":
    main()
