"""Every job on two machines in one, by `ray job submit`, with a shared path and a bucket: docs/results/cluster-rig.

    python benchmarks/cluster_rig.py

Root and `unshare`; the two machines are those of tests/cluster. Some ten minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "cluster"), str(ROOT / "tests")]

from journey import LONG, UNSEEN, Step, run, screenings, steps  # noqa: E402
from rig import Rig  # noqa: E402
from synthetic_bundle import synthetic_bundle  # noqa: E402

from osteo_ray.io.store import Store  # noqa: E402

SEED, PERSONS = 5, 40
WRONG = "WRONG"
SCAN = {"size_512_share": 0.0, "slice_max": 64, "protocols": {"abdomen": 1.0}}


def bucket() -> str:
    """URI of a bucket of a loopback S3 server, of which the environment tells all processes."""
    import fsspec
    from moto.server import ThreadedMotoServer

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "NO_PROXY": "127.0.0.1"}
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    fsspec.filesystem("s3", skip_instance_cache=True).makedirs("runs", exist_ok=True)
    return "s3://runs"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "cluster-rig.json")
    p.add_argument("--jobs", nargs="+", choices=(*LONG, "serve"), default=(*LONG, "serve"))
    p.add_argument("--places", nargs="+", choices=("shared path", "bucket"), default=("shared path", "bucket"))
    p.add_argument("--add", action="store_true", help="keep the rows of --out but those of the jobs that are run now")
    a = p.parse_args()
    before: list[dict[str, object]] = json.loads(a.out.read_text())["rows"] if a.add else []
    rows: list[dict[str, object]] = []
    uri = bucket()
    with Rig() as rig:
        shared = rig.shared

        def note(job: str, place: str, seconds: float, result: str, log: str) -> None:
            row = {"table": "jobs", "job": job, "place": place, "seconds": round(seconds), "result": result}
            rows.append(row)
            print(row, flush=True)
            kept = [b for b in before if not any((b["job"], b["place"]) == (r["job"], r["place"]) for r in rows)]
            write(a.out, kept + rows)
            if result == WRONG:
                print(log[-3000:], flush=True)

        def go(place: str, step: Step) -> None:
            done = run(rig, step)
            which = "(dry run)" if step.config.get("dry_run") else "(again)" if "0 scored" in step.says else ""
            name = " ".join(filter(None, [step.job, step.action, which]))
            ends = "done" if step.works else f'refuses: "{step.says}"'
            note(name, place, done.seconds, ends if done.good else WRONG, done.log)

        made = {"seed": SEED, "persons": PERSONS, "scan": SCAN}
        of_head = made | {"out": str(rig.disk / "cohort")}
        go("a disk of the head alone", Step("cohort", of_head, "what the driver wrote there is not there", works=False))
        go("shared path", Step("cohort", made | {"out": str(shared / "cohort")}, "with CT"))
        shutil.copytree(shared / "cohort" / "archive", shared / "ct")
        shutil.copy(shared / "cohort" / "records.csv", shared)
        (shared / "bundle").mkdir()
        synthetic_bundle().save(shared / "bundle")
        store = Store(f"{uri}/site")
        for source in (shared / "ct", shared / "records.csv", shared / "bundle"):
            for f in [source] if source.is_file() else source.rglob("*"):
                if f.is_file():
                    store.put(str(f.relative_to(shared)), f.read_bytes())
        relative = {"archive": "ct", "out": store.path("index")}
        go("the job's working directory", Step("index", relative, "archive: ct is relative", works=False))
        for home in (unseen := rig.disk / "unseen", rig.worker_disk / "unseen"):
            home.mkdir()
        (unseen / "a.dcm").write_bytes(b"123")
        ways = {"shared path": lambda n: str(shared / n), "bucket": store.path}
        roots = {"roots": [str(shared / "ct"), str(unseen)]}
        on_worker = {"driver_cpus": 0.5, "node_labels": {"market": "spot"}}
        services = {"shared path": (roots, {}, str(unseen)), "bucket": ({"buckets": [uri]}, on_worker, None)}
        for place in a.places:
            for step in steps(ways[place], tuple(j for j in a.jobs if j != "serve")):
                go(place, step)
            if "serve" not in a.jobs:
                continue
            for what, good, seconds, error in screenings(rig, ways[place], *services[place]):
                ends = f'FAILED: "{UNSEEN}"' if "lacks" in what else "done"
                note(what, place, seconds, ends if good else WRONG, str(error))


def write(out: Path, rows: list[dict[str, object]]) -> None:
    """What is known so far."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    wrong = sum(r["result"] == WRONG for r in rows)
    bars = [{"name": "jobs", "value": len(rows)}, {"name": "jobs that end otherwise than they should", "value": wrong}]
    bars = [b | {"low": None, "high": None, "target": None, "met": None} for b in bars]
    bars[1] |= {"target": 0, "met": not wrong}
    text = {"command": "python benchmarks/cluster_rig.py", "commit": commit.stdout.strip(), "seed": SEED}
    out.write_text(json.dumps(text | {"rows": rows, "bars": bars}, indent=1) + "\n")


if __name__ == "__main__":
    main()
