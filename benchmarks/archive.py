"""The index against other readers: headers indexed, slices decoded, DICOMweb against files. One table, ratios.

    python benchmarks/archive.py [--instances 10000] [--repeats 5] [--ct SERIES.zip]

Readers take turns within each repeat and the best time counts, so a noisy machine hurts all alike. `--ct` takes real
slices (a zip of DICOM files) instead of synthetic ones for the decode part. dicomsdl and MONAI take part where they
can be imported.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import imagecodecs
import numpy as np
import pydicom
import SimpleITK as sitk
from archive_tree import write_files
from pydicom.encaps import encapsulate
from pydicom.uid import UID, RLELossless

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.instances import digest, instance_rows
from osteo_ray.dicom.decode_guard import DecodeGuard
from osteo_ray.dicom.header import read_header
from osteo_ray.dicom.sources import Entry, LocalSource, file_path, file_uri
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.dicom.tags import TAGS

T = TypeVar("T")
Timed = dict[str, Callable[[], object]]
J = "1.2.840.10008.1.2.4."
CFG = IndexConfig()


def interleaved(readers: Timed, repeats: int, n: int) -> dict[str, float]:
    """Items a second, the best of `repeats` rounds in which every reader has one turn."""
    best = dict.fromkeys(readers, float("inf"))
    for _ in range(repeats):
        for name, fn in readers.items():
            t = time.perf_counter()
            fn()
            best[name] = min(best[name], time.perf_counter() - t)
    return {name: n / s for name, s in best.items()}


def table(title: str, unit: str, rates: dict[str, float], ours: str, note: str = "") -> None:
    print(f"\n### {title}{note}\n\n| reader | {unit} | ours / it |\n|---|---|---|")
    for name, v in sorted(rates.items(), key=lambda x: -x[1]):
        print(f"| {name} | {v:,.0f} | {'-' if name == ours else f'{rates[ours] / v:.2f}'} |", flush=True)


def index_part(folder: Path, n: int, repeats: int) -> None:
    from osteo_ray import ray_setup
    from osteo_ray.catalogue.build import build

    write_files(folder, n)
    source = LocalSource(folder)
    entries = list(source.list())
    some = entries[:: max(n // 2000, 1)]
    paths = [file_path(e.uri) for e in some]
    wanted = [
        (t & 0xFFFF) << 16 | t >> 16 for t, name in TAGS.items() if t & 0xFFFF <= 0x0028 and name != "media_class"
    ][:24]

    def limit() -> None:
        for e in some:
            source.header(e.uri, 16384)

    def walker() -> None:
        for e in some:
            head = source.header(e.uri, 16384)
            h = read_header(partial(source.header, e.uri), e.bytes, CFG.limits, head)
            instance_rows(e, h, digest(head), CFG)

    def by_pydicom() -> None:
        for p in paths:
            ds = pydicom.dcmread(p, specific_tags=wanted, stop_before_pixels=True)
            for t in wanted:  # values are converted when they are asked for
                ds.get(t)

    def by_sitk() -> None:
        for d in sorted({str(Path(p).parent) for p in paths}):
            for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(d):
                sitk.ImageSeriesReader.GetGDCMSeriesFileNames(d, uid)

    readers: Timed = {"read 16 KB": limit, "header walk": walker, "pydicom specific_tags": by_pydicom}
    if find_spec("dicomsdl"):
        import dicomsdl

        def by_sdl() -> None:
            for p in paths:
                ds = dicomsdl.open_file(p, 0x7FDFFFFF)
                for t in wanted:
                    ds.getDataElement(t).value()

        readers["dicomsdl"] = by_sdl
    rates = interleaved(readers, repeats, len(some))
    folders = len({str(Path(p).parent) for p in paths})
    rates |= interleaved({"SimpleITK series": by_sitk}, 2, folders * 100)
    t = time.perf_counter()
    ray_setup.start(num_cpus=1)
    started = time.perf_counter() - t
    whole = "index, end to end (Ray, 1 worker)"
    for i in range(max(repeats // 2, 2)):
        with tempfile.TemporaryDirectory() as out:
            s = build(folder, out, IndexConfig(num_cpus=1))
            if i:  # the first run also starts the worker
                rates[whole] = max(rates.get(whole, 0), n / s.seconds)
            else:
                cold = s.seconds
    table(
        f"Headers of {n:,} instances",
        "instances/s",
        rates,
        whole,
        f" (Ray's start {started:.1f} s, first run {cold:.1f} s)",
    )


def cpu_part(folder: Path, n: int, repeats: int) -> None:
    """CPU time of the index's own work, in one process without Ray: the least of some turns."""
    from osteo_ray.catalogue import build, listing
    from osteo_ray.catalogue.exchange import of_parts
    from osteo_ray.io.store import Store

    write_files(folder, n)
    best: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], T]) -> T:
        start = time.process_time()
        out = work()
        best[stage] = min(best.get(stage, float("inf")), time.process_time() - start)
        return out

    def entries() -> Iterator[Entry]:
        for group in listing.groups(folder, CFG):
            yield from listing.entries(group, CFG)

    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as out:
            store = Store(out)
            found = timed("listing", lambda: build._write_parts(store, entries(), CFG, frozenset()))  # noqa: B023
            keys = [k for k, _ in found]
            records = timed("headers", lambda: build._index_parts(store, keys, CFG))  # noqa: B023
            work = build._Partition("0.parquet", tuple(of_parts(records)), ())
            timed("assembly, catalogue", lambda: build._assemble_partition(store, work, CFG))  # noqa: B023
    print(f"\n### CPU time of the index of {n:,} instances, without Ray\n\n| stage | us an instance |\n|---|---|")
    for stage, s in [*best.items(), ("together", sum(best.values()))]:
        print(f"| {stage} | {s / n * 1e6:.1f} |", flush=True)


def slices(ct: Path | None, n: int = 12) -> list[pydicom.Dataset]:
    if ct:
        with zipfile.ZipFile(ct) as z:
            names = sorted(m for m in z.namelist() if not m.endswith("/"))
            return [pydicom.dcmread(io.BytesIO(z.read(m))) for m in names[len(names) // 2 :][:n]]
    with tempfile.TemporaryDirectory() as d:
        write_files(Path(d), n)
        out: list[pydicom.Dataset] = [pydicom.dcmread(p) for p in sorted(Path(d).rglob("IM*"))]
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]
    for ds in out:
        body = (y - 256) ** 2 / 1.4 + (x - 256) ** 2 < 200**2
        px = np.where(body, 1060, 24) + rng.normal(0, 12, (512, 512))
        ds.PixelData = px.clip(0, 4095).astype(np.uint16).tobytes()
    return out


CODERS: dict[str, tuple[str, Callable[[np.ndarray], bytes | bytearray] | None]] = {
    "raw": ("1.2.840.10008.1.2.1", None),
    "JPEG-LS": (J + "80", imagecodecs.jpegls_encode),
    "JPEG 2000": (J + "90", lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True, level=0)),
    "JPEG lossless SV1": (
        J + "70",
        lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16, predictor=1),
    ),
    "RLE": (RLELossless, None),
    "deflate": ("1.2.840.10008.1.2.1.99", None),
    "HTJ2K": (J + "201", imagecodecs.htj2k_encode),
}


def write_slices(sets: list[pydicom.Dataset], coder: str, folder: Path) -> list[Path]:
    syntax, encode = CODERS[coder]
    out = []
    for i, ds in enumerate(sets):
        buffer = io.BytesIO()
        ds.save_as(buffer)
        new = pydicom.dcmread(io.BytesIO(buffer.getvalue()))
        if syntax == RLELossless:
            new.compress(RLELossless)
        elif encode:
            px = np.frombuffer(new.PixelData, np.uint16).reshape(new.Rows, new.Columns)
            new.PixelData = encapsulate([bytes(encode(px))])
            new["PixelData"].is_undefined_length = True
        new.file_meta.TransferSyntaxUID = UID(syntax)
        out.append(folder / f"{i}.dcm")
        new.save_as(out[-1])
    return out


def decode_part(ct: Path | None, repeats: int) -> None:
    sets = slices(ct)
    guard = DecodeGuard()
    for coder in CODERS:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as d:
            paths = write_slices(sets, coder, Path(d))
            rates = interleaved(_decoders(paths, guard), repeats, len(paths))
            table(f"Slices decoded to HU, {coder}", "slices/s", rates, "SliceStack.hu")
    guard.close()


def _first(data: bytes, n: int) -> bytes:
    return data[:n]


def _decoders(paths: list[Path], guard: DecodeGuard) -> Timed:
    rows = []
    for p in paths:
        data = p.read_bytes()
        h = read_header(partial(_first, data), len(data), CFG.limits)
        rows += instance_rows(Entry(file_uri(p), len(data), ""), h, 0, CFG)
    items = [r | {"z_mm": float(i)} for i, r in enumerate(rows)]
    shape, axial = (rows[0]["rows"], rows[0]["cols"]), np.array([1.0, 0, 0, 0, 1, 0])

    def ours(guarded: DecodeGuard | None = None) -> None:
        with SliceStack(items, shape, (1.0, 1.0), axial, guard=guarded) as s:
            for i in range(s.n):
                s.hu(i)

    def by_pydicom() -> None:
        for p in paths:
            ds = pydicom.dcmread(p)
            pydicom.pixels.apply_rescale(ds.pixel_array, ds)

    def by_sitk() -> None:
        for p in paths:
            sitk.GetArrayFromImage(sitk.ReadImage(str(p)))

    readers: Timed = {
        "SliceStack.hu": ours,
        "SliceStack.hu, guarded": lambda: ours(guard),
        "pydicom pixel_array": by_pydicom,
    }
    readers["SimpleITK"] = by_sitk
    if find_spec("dicomsdl"):
        import dicomsdl

        def by_sdl() -> None:
            for p in paths:
                dicomsdl.open(str(p)).pixelData(storedvalue=False)

        readers["dicomsdl"] = by_sdl
    if find_spec("monai"):
        from monai.data import PydicomReader

        reader = PydicomReader()

        def by_monai() -> None:
            for p in paths:
                reader.get_data(reader.read(str(p)))

        readers["MONAI PydicomReader"] = by_monai
    return {name: fn for name, fn in readers.items() if _works(name, fn)}


def _works(name: str, fn: Callable[[], object]) -> bool:
    try:
        fn()
    except Exception as e:
        print(f"\n({name} can't read this: {type(e).__name__}: {str(e).splitlines()[0][:80]})")
        return False
    return True


def dicomweb_part(repeats: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "archive"))
    from orthanc_running import installed, running, store

    if not installed():
        print("\n(no DICOMweb part: Orthanc is not installed)")
        return
    from osteo_ray.catalogue.indexing import index_entries
    from osteo_ray.dicom.sources import open_source

    with tempfile.TemporaryDirectory() as d:
        home, files = Path(d) / "orthanc", Path(d) / "files"
        home.mkdir()
        write_files(files, 100)
        with running(home) as (base, session, netrc):
            os.environ |= {"NETRC": str(netrc), "NO_PROXY": "127.0.0.1"}
            store(session, base, (p.read_bytes() for p in sorted(files.rglob("IM*"))))
            places = {"files": str(files), "DICOMweb (Orthanc, loopback)": f"dicomweb+{base}"}
            rows = {k: [r for ok, r in index_entries(open_source(u).list(), CFG) if ok] for k, u in places.items()}

            def read(k: str) -> None:
                items = [r | {"z_mm": 0.0} for r in rows[k]]
                with SliceStack(items, (512, 512), (1.0, 1.0), np.array([1.0, 0, 0, 0, 1, 0])) as s:
                    for i in range(s.n):
                        s.hu(i)

            def index(u: str) -> None:
                list(index_entries(open_source(u).list(), CFG))

            table(
                "DICOMweb against files: headers",
                "instances/s",
                interleaved({k: partial(index, u) for k, u in places.items()}, repeats, 100),
                "DICOMweb (Orthanc, loopback)",
            )
            table(
                "DICOMweb against files: slices",
                "slices/s",
                interleaved({k: partial(read, k) for k in places}, repeats, 100),
                "DICOMweb (Orthanc, loopback)",
            )


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--instances", type=int, default=10_000)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--ct", type=Path)
    p.add_argument("--parts", nargs="+", default=["index", "cpu", "decode", "dicomweb"])
    a = p.parse_args()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if "index" in a.parts:
        with tempfile.TemporaryDirectory() as d:
            index_part(Path(d), a.instances, a.repeats)
    if "cpu" in a.parts:
        with tempfile.TemporaryDirectory() as d:
            cpu_part(Path(d), a.instances, a.repeats)
    if "decode" in a.parts:
        decode_part(a.ct, a.repeats)
    if "dicomweb" in a.parts:
        dicomweb_part(a.repeats)
