"""Resident memory of an index run against the size of the archive: it has to stay flat.

    python benchmarks/archive_tree.py TREE --instances 1000000 --zips --side 16
    python benchmarks/archive_scale.py TREE --studies 100 1000 10000

Each size is indexed by a fresh driver with one worker; memory of the driver and of each Ray worker is sampled from
/proc. Then the same archive is indexed again, unchanged.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def resident(pid: int) -> float:
    """MB of private memory (shared pages, such as the object store's, left out); 0 where the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0.0
    return (int(fields[1]) - int(fields[2])) * 4096 / 2**20


def workers(session: int) -> dict[int, str]:
    """Ray workers below this driver's session: pid -> title."""
    out = {}
    for p in Path("/proc").iterdir():
        if p.name.isdigit():
            try:
                title = (p / "cmdline").read_bytes().split(b"\0")[0].decode("latin-1")
                if title.startswith("ray::") and os.getsid(int(p.name)) == session:
                    out[int(p.name)] = title
            except OSError:
                continue
    return out


def measure(tree: str, out: str) -> dict:
    from osteo_ray.catalogue.build import build
    from osteo_ray.catalogue.config import IndexConfig

    peak = {"driver": 0.0, "worker": 0.0}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            peak["driver"] = max(peak["driver"], resident(os.getpid()))
            peak["worker"] = max([peak["worker"], *(resident(w) for w in workers(os.getsid(0)))])

    thread = threading.Thread(target=watch)
    thread.start()
    s = build([Path(tree) / x for x in sorted(os.listdir(tree))], out, IndexConfig(num_cpus=1))
    stop.set()
    thread.join()
    t = time.monotonic()
    again = build([Path(tree) / x for x in sorted(os.listdir(tree))], out, IndexConfig(num_cpus=1))
    return peak | {
        "instances": s.instances,
        "series": s.n_series,
        "parts": s.parts,
        "seconds": s.seconds,
        "again_s": time.monotonic() - t,
        "unchanged": again.unchanged,
    }


def main(tree: Path, studies: list[int]) -> None:
    folders = sorted(tree.iterdir())
    print("| instances | series | seconds | instances/s | driver MB | worker MB | again, unchanged |")
    print("|---|---|---|---|---|---|---|")
    for n in studies:
        with tempfile.TemporaryDirectory() as tmp:
            part = Path(tmp) / "tree"
            part.mkdir()
            left = n
            for folder in folders:  # links to whole folders, or to the studies of the last one
                found = sorted(folder.iterdir())[: max(left, 0)]
                left -= len(found)
                (part / folder.name).mkdir()
                for f in found:
                    os.link(f, part / folder.name / f.name)
            command = [sys.executable, __file__, "--measure", str(part), str(Path(tmp) / "out")]
            text = subprocess.run(command, check=True, capture_output=True, text=True, start_new_session=True).stdout
            r = json.loads(text.splitlines()[-1])
            assert r["unchanged"]
            print(
                f"| {r['instances']} | {r['series']} | {r['seconds']:.1f} | {r['instances'] / r['seconds']:.0f} | "
                f"{r['driver']:.0f} | {r['worker']:.0f} | {r['again_s']:.2f} s |",
                flush=True,
            )
            shutil.rmtree(part)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
    else:
        p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        p.add_argument("tree", type=Path)
        p.add_argument("--studies", type=int, nargs="+", default=[100, 1000, 10000])
        a = p.parse_args()
        main(a.tree, a.studies)
