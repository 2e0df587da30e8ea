"""Studies a minute: this pipeline, a plain process pool over the same functions, and whole-series readers beside them.

    pip install -e '.[bench]'
    python benchmarks/screening.py prepare --work W              # series of 300 slices of 512 x 512, four codecs
    python benchmarks/screening.py run --work W --bundle run/bundle --rounds 3
    python benchmarks/screening.py memory --work W --bundle run/bundle --slices 824 --rows 5000    # ten times the store
    python benchmarks/screening.py peak --work W --bundle run/bundle --slices 824

`pipeline` and `pool` decode what the policy looks at. `MONAI` and `SimpleITK` read the whole series with that library's
DICOM reader, then run the same encoder on every slice and the same student on all of them. They take turns, round by
round, so that a machine's other load falls on all alike; CPU seconds are of all its processes. Start-up is left
out: a rate is of what came after the first part file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray import ray_setup
from osteo_ray.config import validate
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.config import ScreenConfig

CODECS = ("explicit-le", "jpeg-ls", "j2k", "htj2k")
DICOMWEB = "dicomweb"


class Cpu:
    """CPU seconds of this process and all its descendants, also of those that ended meanwhile."""

    def __enter__(self) -> Cpu:
        self._seen: dict[int, float] = {}
        self._before = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _now(self) -> dict[int, float]:
        me = psutil.Process()
        for p in [me, *me.children(recursive=True)]:
            with suppress(psutil.Error):
                t = p.cpu_times()
                self._seen[p.pid] = t.user + t.system
        return dict(self._seen)

    def _watch(self) -> None:
        while not self._stop.wait(0.3):
            self._now()

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        now = self._now()
        self.seconds = sum(v - self._before.get(k, 0.0) for k, v in now.items())


# ---- synthetic series


def prepare(work: Path, series: int, slices: int) -> None:
    """Write `series` synthetic scans of `slices` slices once for each codec, and a catalogue of each."""
    from osteo_ray.catalogue import build as catalogue
    from osteo_ray.catalogue.config import IndexConfig
    from osteo_ray.synthetic.config import CohortConfig
    from osteo_ray.synthetic.write import write_cohort

    work.mkdir(parents=True, exist_ok=True)
    scan = {"size_512_share": 1.0, "slice_min": slices, "slice_max": slices, "thickness": {1.25: 1.0}, "tilt_share": 0}
    scan |= {
        "extra_series_share": 0,
        "scout_share": 0,
        "reformat_share": 0,
        "repeat_share": 0,
        "protocols": {"abdomen": 1.0},
    }
    cfg = {"seed": 3, "persons": 12 * series, "scan": scan, "transfer_syntaxes": ["explicit-le"]}
    ray_setup.start(num_cpus=2)
    write_cohort(work / "cohort", validate(CohortConfig, cfg))
    catalogue.build(work / "cohort" / "archive", work / "index", IndexConfig())
    rows = [r for r in pq.read_table(work / "index" / "catalogue.parquet").to_pylist() if r["n_slices"] > 20][:series]
    for codec in CODECS:
        for i, row in enumerate(rows):
            folder = work / codec / f"{i:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            for k, inst in enumerate(row["instances"]):
                _transcoded(inst["uri"].removeprefix("file://"), codec, folder / f"{k:04d}.dcm")
        catalogue.build(work / codec, work / f"{codec}-index", IndexConfig())
        n = [r["n_slices"] for r in pq.read_table(work / f"{codec}-index" / "catalogue.parquet").to_pylist()]
        print(
            codec, "series of", n, "slices,", sum(f.stat().st_size for f in (work / codec).rglob("*.dcm")) >> 20, "MB"
        )


def _transcoded(path: str, codec: str, to: Path) -> None:
    import pydicom

    from osteo_ray.synthetic.encode import SYNTAXES, encode

    if codec == "explicit-le":
        shutil.copyfile(path, to)
        return
    ds = pydicom.dcmread(path)
    ds.PixelData = encode(ds.pixel_array, codec)
    ds.file_meta.TransferSyntaxUID = SYNTAXES[codec]
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.save_as(to)


def repeated(catalogue: Path, n: int, to: Path, slices: int | None = None) -> Path:
    """A catalogue of n rows: the open ones again and again, under UIDs of their own; if wanted, of `slices` slices."""
    table = pq.read_table(catalogue)
    rows = [r if slices is None else lengthened(r, slices) for r in table.to_pylist() if r["state"] is None]
    assert rows, f"{catalogue} has no open series"
    more = [rows[i % len(rows)] | {"series_uid": f"{rows[i % len(rows)]['series_uid']}.{i}"} for i in range(n)]
    pq.write_table(pa.Table.from_pylist(more, schema=table.schema), to, row_group_size=64)
    return to


def lengthened(row: dict[str, Any], slices: int) -> dict[str, Any]:
    """A series with its files again and again, at heights of their own: what is read and decoded is a long series'."""
    items = row["instances"]
    z = np.linspace(items[0]["z_mm"], items[-1]["z_mm"], slices).tolist()
    more = [items[i * len(items) // slices] | {"z_mm": z[i]} for i in range(slices)]
    return row | {"instances": more, "n_slices": slices}


# ---- ways: each scores the rows of a catalogue and leaves part files


def config(workers: int, **pipeline: int) -> ScreenConfig:
    return validate(ScreenConfig, {"pipeline": {"actors": workers, **pipeline}, "scoring": {"shap": False}})


def by_pipeline(catalogue: Path, bundle: str, out: Path, workers: int) -> None:
    from osteo_ray.screening.pipeline import screen

    screen(catalogue, None, bundle, out, config(workers), quiet=True)


def by_pool(catalogue: Path, bundle: str, out: Path, workers: int) -> None:
    from osteo_ray.io.store import Store
    from osteo_ray.patients.record_set import records_of
    from osteo_ray.screening import ledger

    cfg, store = config(workers), Store(out)
    plan = ledger.make_plan(str(catalogue), records_of(None), bundle, store, cfg)
    with multiprocessing.get_context("spawn").Pool(workers, _pool_start, (bundle, cfg, str(out))) as pool:
        work = (
            (s.name, b)
            for s, of_shard in zip(plan.shards, plan.of_shards(), strict=True)
            for rows in [plan.pending[of_shard]]
            for b in ledger.batches(
                str(catalogue), rows, plan.keys[rows], plan.attempt[of_shard], cfg.pipeline.series_per_task
            )
        )
        for _ in pool.imap_unordered(_pool_work, work):
            pass


_state: dict[str, Any] = {}


def _pool_start(bundle: str, cfg: ScreenConfig, out: str) -> None:
    from osteo_ray.io.store import Store
    from osteo_ray.screening.predictor import Predictor

    _state.update(scorer=Predictor.load(bundle, cfg.scoring, cfg.index), out=Store(out))


def _pool_work(item: tuple[str, pa.Table]) -> int:
    from osteo_ray.patients.schema import NAMES
    from osteo_ray.screening import ledger
    from osteo_ray.screening.schema import RESULTS

    shard, batch = item
    keys, attempts = batch["row_key"].to_pylist(), batch["attempt"].to_pylist()
    rows = batch.drop_columns(["row_key", "attempt"]).to_pylist()
    results = _state["scorer"].score_rows(rows, np.full((len(rows), len(NAMES)), np.nan, np.float32))
    for k, a, r in zip(keys, attempts, results, strict=True):
        r.update(row_key=k, attempt=a)
    ledger.write_part(_state["out"], shard, pa.Table.from_pylist(results, schema=RESULTS))
    return len(rows)


def by_reader(reader: str) -> Callable[[Path, str, Path, int], None]:
    """Whole series by a library's reader, every slice through the encoder, all of them through the student."""

    def way(catalogue: Path, bundle: str, out: Path, workers: int) -> None:
        rows = pq.read_table(catalogue).to_pylist()
        with multiprocessing.get_context("spawn").Pool(workers, _pool_start, (bundle, config(1), str(out))) as pool:
            for _ in pool.imap_unordered(_whole_series, [(reader, r) for r in rows]):
                pass

    return way


def read_monai(folder: str) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    from monai.transforms import LoadImage

    image = LoadImage(image_only=True)(folder)  # [x, y, z] in HU, RAS affine
    affine = np.asarray(image.affine)
    return (
        np.asarray(image).transpose(2, 1, 0),
        (float(np.linalg.norm(affine[:3, 1])), float(np.linalg.norm(affine[:3, 0]))),
        affine[2, 3] + affine[2, 2] * np.arange(image.shape[2]),
    )


def read_sitk(folder: str) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    image = reader.Execute()
    dx, dy, dz = image.GetSpacing()
    hu = sitk.GetArrayFromImage(image)
    return hu, (dy, dx), image.GetOrigin()[2] + dz * np.arange(len(hu))


READERS = {"MONAI": read_monai, "SimpleITK": read_sitk}


class Volume:
    """A decoded volume as a stack (`archive.slices.Stack`)."""

    def __init__(self, hu: np.ndarray, spacing: tuple[float, float], z_mm: np.ndarray, size: int):
        order = np.argsort(z_mm)
        self._hu, self.axial_spacing_mm, self.z_mm = hu[order], spacing, z_mm[order]
        self.n = self.decoded = len(hu)
        self.bytes_read = size

    def axial(self, i: int) -> np.ndarray:
        return self._hu[i]


def _whole_series(item: tuple[str, dict[str, Any]]) -> int:
    import torch

    from osteo_ray.model.crops import spine_crop
    from osteo_ray.model.selection import Selection
    from osteo_ray.screening.predictor import PolicyTrace
    from osteo_ray.screening.schema import RESULTS

    reader, row = item
    scorer = _state["scorer"]
    folder = Path(row["instances"][0]["uri"].removeprefix("file://")).parent
    size = sum(f.stat().st_size for f in folder.iterdir())
    stack = Volume(*READERS[reader](str(folder)), size)
    b = scorer.bundle
    embedded = []
    with torch.no_grad():
        for a in range(0, stack.n, 16):
            hu = [stack.axial(i) for i in range(a, min(a + 16, stack.n))]
            crops = np.stack([spine_crop(s, stack.axial_spacing_mm, b.config.crop) for s in hu])
            embedded.append(b.encoder(torch.from_numpy(crops)).embedding.numpy())
    embedding, every = np.concatenate(embedded), np.arange(stack.n)
    seen = PolicyTrace(stack, every, Selection(every, np.ones(stack.n, bool), embedding), [], 0.0)
    record = np.full((1, len(NAMES)), np.nan, np.float32)
    result = scorer._score_traces([row], [seen], record)[0]
    result["row_key"] = row["series_uid"].replace(".", "")
    _state["out"].put_table(f"parts/{result['row_key']}.parquet", pa.Table.from_pylist([result], schema=RESULTS))
    return 1


WAYS: dict[str, Callable[[Path, str, Path, int], None]] = {
    "pipeline": by_pipeline,
    "pool": by_pool,
    "MONAI": by_reader("MONAI"),
    "SimpleITK": by_reader("SimpleITK"),
}


def one(way: str, catalogue: str, bundle: str, workers: int) -> None:
    """In a fresh process: run one way, print what it took as JSON."""
    with tempfile.TemporaryDirectory() as tmp:
        out = Path(tmp) / "out"
        arrived: dict[str, float] = {}
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.02):
                for p in out.glob("parts/*.parquet"):
                    arrived.setdefault(p.name, p.stat().st_mtime if p.exists() else time.time())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        if way == "pipeline":
            ray_setup.start(num_cpus=2, object_store_mb=256)
        t = time.time()
        with Cpu() as cpu:
            WAYS[way](Path(catalogue), bundle, out, workers)
        total = time.time() - t
        stop.set()
        thread.join()
        found = pq.read_table(out / "results.parquet") if way == "pipeline" else _parts(out)
        times = sorted(arrived.values())
        n = found.num_rows
        rest = n * (len(times) - 1) / max(1, len(times))
        print(
            json.dumps(
                {
                    "n": n,
                    "per_min": 60 * rest / max(1e-9, times[-1] - times[0]),
                    "start_s": times[0] - t,
                    "total_s": total,
                    "cpu_s": cpu.seconds / n,
                    "mb_read": sum(v or 0 for v in found["bytes_read"].to_pylist()) / n / 1e6,
                    "decoded": sum(v or 0 for v in found["slices_decoded"].to_pylist()) / n,
                    "states": sorted(set(found["state"].to_pylist())),
                }
            )
        )


def _parts(out: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(p) for p in sorted(out.glob("parts/*.parquet"))])


@contextmanager
def dicomweb(work: Path) -> Iterator[None]:
    """An Orthanc that holds the raw series while it lasts, and a catalogue of it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "dicom"))
    import ray
    from orthanc_running import running, store

    from osteo_ray.catalogue import build as catalogue
    from osteo_ray.catalogue.config import IndexConfig

    with tempfile.TemporaryDirectory() as home, running(Path(home)) as (base, session, netrc):
        os.environ |= {"NETRC": str(netrc), "NO_PROXY": "127.0.0.1"}
        store(session, base, (p.read_bytes() for p in sorted((work / "explicit-le").rglob("*.dcm"))))
        ray_setup.start(num_cpus=2)
        catalogue.build(f"dicomweb+{base}", work / "dicomweb-index", IndexConfig())
        ray.shutdown()
        yield


def run(a: argparse.Namespace) -> None:
    with dicomweb(a.work) if DICOMWEB in a.codecs else nullcontext():
        _run(a)


def _run(a: argparse.Namespace) -> None:
    found: dict[tuple[str, str, int], list[dict]] = {}
    for _ in range(a.rounds):
        for codec in a.codecs:
            for workers in a.workers:
                for way in a.ways:
                    if codec == DICOMWEB and way in READERS:  # they read folders
                        continue
                    n = a.rows * workers if way in ("pipeline", "pool") else a.whole * workers
                    catalogue = repeated(a.work / f"{codec}-index" / "catalogue.parquet", n, a.work / "rows.parquet")
                    args = [sys.executable, __file__, "one", "--way", way, "--catalogue", catalogue]
                    args += ["--bundle", a.bundle, "--workers", workers]
                    done = subprocess.run(list(map(str, args)), capture_output=True, text=True, env=_environment())
                    if done.returncode:
                        raise SystemExit(f"{way}: {done.stderr[-3000:]}")
                    found.setdefault((codec, way, workers), []).append(json.loads(done.stdout.splitlines()[-1]))
                    print(codec, way, workers, found[codec, way, workers][-1], file=sys.stderr, flush=True)
    print("| codec | way | workers | studies/min (median; all) | CPU s/study | start s | slices decoded | MB read |")
    print("|---|---|---|---|---|---|---|---|")
    for (codec, way, workers), ms in found.items():
        rates = [m["per_min"] for m in ms]
        mid = {k: float(np.median([m[k] for m in ms])) for k in ("cpu_s", "start_s", "decoded", "mb_read")}
        print(
            f"| {codec} | {way} | {workers} | {np.median(rates):.0f} ({', '.join(f'{r:.0f}' for r in rates)}) "
            f"| {mid['cpu_s']:.3f} | {mid['start_s']:.0f} | {mid['decoded']:.0f} | {mid['mb_read']:.1f} |"
        )


def _environment() -> dict[str, str]:
    one = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
    )
    # Ray puts its workers behind other processes (nice 15); a comparison on a busy machine needs them level.
    return os.environ | one | {"RAY_worker_niceness": "0"}


def memory(a: argparse.Namespace) -> None:
    """Object store of 80 MB, rows of many times as much: resident memory and what lies in the store, by rows done."""
    from osteo_ray.io.store import Store
    from osteo_ray.patients.record_set import records_of
    from osteo_ray.screening import ledger

    os.environ.update(_environment())
    ray_setup.start(num_cpus=2, object_store_mb=80)
    source = a.work / "explicit-le-index" / "catalogue.parquet"
    catalogue = repeated(source, a.rows, a.work / "memory.parquet", a.slices)
    cfg = config(2)
    with tempfile.TemporaryDirectory() as tmp:
        out = Store(Path(tmp) / "out")
        plan = ledger.make_plan(str(catalogue), records_of(None), a.bundle, out, cfg)
        rows = plan.pending
        size = sum(t.nbytes for t in ledger.batches(str(catalogue), rows, plan.keys[rows], plan.attempt, 64))
        print(f"{len(plan)} rows, {size / 2**20:.0f} MB as they pass through the store; object store 80 MB")
        done, curve = threading.Event(), []

        def watch() -> None:
            while not done.wait(1.0):
                curve.append(_memory(out))
                names = ("driver", "Ray workers", "scorers", "store", "spilled")
                rows, *mb = curve[-1]
                print(f"{rows:6.0f} rows ", *(f"{n} {m:.0f} MB " for n, m in zip(names, mb, strict=True)), flush=True)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        by_pipeline(catalogue, a.bundle, Path(out.uri), 2)
        done.set()
        thread.join()


def _memory(out: Any) -> tuple[float, ...]:
    import ray

    me = psutil.Process()
    sums = {"driver": _private(me), "ray::": 0.0, "isolated": 0.0}
    for p in me.children(recursive=True):
        with suppress(psutil.Error):
            text = " ".join(p.cmdline())
            for k in ("ray::", "isolated"):
                sums[k] += _private(p) if k in text else 0.0
    total, free = (ray.cluster_resources(), ray.available_resources())
    store = (total.get("object_store_memory", 0) - free.get("object_store_memory", 0)) / 2**20
    spilled = sum(
        f.stat().st_size for f in Path("/tmp/ray/session_latest").rglob("ray_spilled_objects*/*") if f.is_file()
    )
    rows = 0
    for n in out.names("parts/") + out.names("shards/"):
        with suppress(FileNotFoundError), out.parquet(n) as f:
            rows += f.metadata.num_rows
    return rows, sums["driver"], sums["ray::"], sums["isolated"], store, spilled / 2**20


def _private(p: psutil.Process) -> float:
    m = p.memory_info()
    return (m.rss - m.shared) / 2**20


def peak(a: argparse.Namespace) -> None:
    """Peak memory of a scorer process on one long series."""
    from osteo_ray.screening.isolated import IsolatedPredictor

    cfg = config(1)
    for codec in a.codecs:
        row = pq.read_table(a.work / f"{codec}-index" / "catalogue.parquet").to_pylist()[0]
        with IsolatedPredictor(a.bundle, cfg.scoring, cfg.index, cfg.pipeline.limits) as scorer:
            values = np.full((1, len(NAMES)), np.nan, np.float32)
            result = scorer.score_rows([lengthened(row, a.slices)], values)[0]
            top = _peak(psutil.Process(scorer.pid))
        print(f"{codec}: {a.slices} slices, {result['slices_decoded']} decoded, {result['state']}; peak {top:.0f} MB")


def _peak(process: psutil.Process) -> float:
    """VmHWM of a process and its decoder, MB."""
    total = 0
    for p in [process, *process.children(recursive=True)]:
        status = Path(f"/proc/{p.pid}/status").read_text()
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return total / 1024


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["prepare", "run", "one", "memory", "peak"])
    p.add_argument("--work", type=Path)
    p.add_argument("--bundle")
    p.add_argument("--series", type=int, default=2)
    p.add_argument("--slices", type=int, default=300, help="of a synthetic series; the longest one seen has 824")
    p.add_argument("--rows", type=int, default=80, help="studies a worker, pipeline and pool")
    p.add_argument("--whole", type=int, default=4, help="studies a worker, whole-series readers")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--codecs", nargs="+", default=list(CODECS), help="also: dicomweb (raw, from an Orthanc)")
    p.add_argument("--ways", nargs="+", default=list(WAYS))
    p.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    p.add_argument("--way")
    p.add_argument("--catalogue")
    a = p.parse_args(argv)
    if a.what == "prepare":
        prepare(a.work, a.series, a.slices)
    elif a.what == "one":
        one(a.way, a.catalogue, a.bundle, a.workers[0])
    else:
        {"run": run, "memory": memory, "peak": peak}[a.what](a)


if __name__ == "__main__":
    main()
