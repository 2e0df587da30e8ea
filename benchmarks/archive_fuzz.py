"""Fuzz the header parser and series assembly: mutated headers must end as rows or as codes, quickly, in flat memory.

    python benchmarks/archive_fuzz.py --cases 200000 [--zoo dicom_zoo.zip] [--seed 0]

Prints cases, outcomes by code, the slowest case, and resident memory early and at the end; exits 1 at a crash, a hang
or growth.
"""

from __future__ import annotations

import argparse
import io
import random
import signal
import sys
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
from archive_tree import headers
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from osteo_ray.catalogue.assembly import assemble
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.instances import instance_rows
from osteo_ray.dicom.header import read_header
from osteo_ray.dicom.sources import Entry
from osteo_ray.outcomes import Rejected

HANG_S = 5
GROWTH_MB = 64
_LENGTHS = [0, 1, 2, 7, 8, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]


def seeds(zoo: Path | None) -> list[bytes]:
    """Whole small files in four encodings, an enhanced multi-frame one, and the zoo's headers where given."""
    pixels = np.zeros(64, np.uint16).tobytes()
    plain = next(headers(1))[2]
    plain = plain[:-4] + len(pixels).to_bytes(4, "little") + pixels
    plain = plain.replace(b"\x28\x00\x10\x00US\x02\x00\x00\x02", b"\x28\x00\x10\x00US\x02\x00\x08\x00")
    plain = plain.replace(b"\x28\x00\x11\x00US\x02\x00\x00\x02", b"\x28\x00\x11\x00US\x02\x00\x08\x00")
    out = [plain, plain[132:]]
    ds = pydicom.dcmread(io.BytesIO(plain))
    for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"):
        out.append(_written(ds, syntax))
    frame = Dataset()
    frame.PlanePositionSequence = Sequence([Dataset()])
    frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 1]
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [1, 1]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = (
        Sequence([shared]),
        Sequence([frame, frame]),
    )
    ds.NumberOfFrames, ds.PixelData = 2, pixels * 2
    ds["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    out.append(_written(ds, "1.2.840.10008.1.2.1"))
    if zoo:
        with zipfile.ZipFile(zoo) as z:
            out += [z.read(n)[:20000] for n in z.namelist() if not n.endswith("/")]
    return out


def _written(ds: Dataset, syntax: str) -> bytes:
    new = Dataset(ds)
    new.file_meta = pydicom.dataset.FileMetaDataset()
    new.file_meta.TransferSyntaxUID = UID(syntax)
    new.preamble = bytes(128)
    buffer = io.BytesIO()
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
    new = pydicom.dataset.FileDataset(buffer, new, preamble=bytes(128), file_meta=new.file_meta)
    pydicom.dcmwrite(buffer, new, implicit_vr=implicit, little_endian=little, force_encoding=True)
    return buffer.getvalue()


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    b = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not b:
            break
        at = rng.randrange(len(b)) if rng.random() < 0.5 else min(rng.randrange(4096), len(b) - 1)
        kind = rng.randrange(8)
        if kind == 0:
            b[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            b[at] = rng.randrange(256)
        elif kind == 2:  # a length field
            size = rng.choice((2, 4))
            b[at : at + size] = (rng.choice(_LENGTHS) & (256**size - 1)).to_bytes(size, "little")
        elif kind == 3:
            del b[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            b[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 5:
            b[at:at] = b[at : at + rng.randrange(1, 512)]
        elif kind == 6:
            del b[at:]
        else:
            other = rng.choice(others)
            cut = rng.randrange(len(other))
            b[at : at + 200] = other[cut : cut + 200]
    return bytes(b)


def one(data: bytes, cfg: IndexConfig, good: list[dict]) -> str:
    """Outcome of one case: a code, or 'row'. What survives is assembled alone, and among good slices of its series."""
    try:
        rows = _rows(data, cfg)
    except Rejected as r:
        return r.outcome.code
    got, _ = assemble(rows, cfg, lambda a, b: False)
    assemble([*good, *rows], cfg, lambda a, b: False)
    return "row, " + (got[0]["code"] or "open")


def _rows(data: bytes, cfg: IndexConfig) -> list[dict]:
    h = read_header(lambda n: data[:n], len(data), cfg.limits)
    return instance_rows(Entry("mem://0", len(data), ""), h, 0, cfg)


def resident_mb() -> float:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096 / 2**20


def run(cases: int, zoo: Path | None, seed: int) -> int:
    cfg, rng = IndexConfig(), random.Random(seed)
    pool = seeds(zoo)
    good = [r | {"sop_uid": f"1.9.{k}", "ipp": [0.0, 0.0, 2.0 * k]} for k in range(1, 6) for r in _rows(pool[0], cfg)]
    counts: Counter[str] = Counter()
    bad: list[tuple[str, bytes]] = []
    slowest = start_mb = 0.0

    def hang(*_: object) -> None:
        raise TimeoutError(f"still running after {HANG_S} s")

    signal.signal(signal.SIGALRM, hang)
    began = time.perf_counter()
    for i in range(cases):
        if i == cases // 10:
            start_mb = resident_mb()  # caches are warm by now
        data = mutate(rng.choice(pool), rng, pool)
        signal.alarm(HANG_S)
        t = time.perf_counter()
        try:
            counts[one(data, cfg, good)] += 1
        except Exception:
            bad.append((traceback.format_exc(limit=-3), data))
            counts["CRASH"] += 1
        signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - t)
    end_mb = resident_mb()
    seconds = time.perf_counter() - began
    print(f"{cases} cases from {len(pool)} seeds in {seconds:.0f} s, slowest {1000 * slowest:.0f} ms")
    print(f"resident memory {start_mb:.0f} MB after a tenth, {end_mb:.0f} MB at the end")
    for code, n in counts.most_common():
        print(f"{n:9d}  {code}")
    for text, data in bad[:5]:
        print(f"--- {len(data)} bytes, {data[:16].hex()}...\n{text}")
    return int(bool(bad) or end_mb - start_mb > GROWTH_MB)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", type=int, default=200_000)
    p.add_argument("--zoo", type=Path)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    sys.exit(run(a.cases, a.zoo, a.seed))
