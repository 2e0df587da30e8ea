"""How Ray is started; in processes of their own, for a process has one Ray."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.ray


def run(code: str, **kw) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, **kw)


def test_what_a_killed_run_left_is_not_joined():
    """The first driver dies without a word; the second begins while the first one's Ray still stands."""
    killed = run(
        """
        import os, signal
        from osteo_ray import ray_setup as rayenv
        rayenv.start(num_cpus=1, object_store_mb=80)
        import ray
        print(ray.get_runtime_context().gcs_address, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = run(
        """
        from osteo_ray import ray_setup as rayenv
        rayenv.start(num_cpus=2, object_store_mb=80)
        import ray
        print(ray.get_runtime_context().gcs_address, ray.cluster_resources()["CPU"])
        """
    )
    assert again.returncode == 0, again.stderr
    address, cpus = again.stdout.split()
    assert address != killed.stdout.strip()
    assert float(cpus) == 2


def test_a_start_that_took_too_long_is_tried_once_more():
    done = run(
        """
        from osteo_ray import ray_setup as rayenv
        import ray
        real, tried = ray.init, []
        def slow(**kw):
            tried.append(kw)
            if len(tried) == 1:
                raise Exception("The current node timed out during startup. This could happen because ...")
            return real(**kw)
        ray.init = slow
        rayenv.start(num_cpus=1, object_store_mb=80)
        assert len(tried) == 2 and tried[0] == tried[1]
        ray.shutdown()
        def broken(**kw):
            raise ValueError("no such thing")
        ray.init = broken
        try:
            rayenv.start()
        except ValueError:
            print("raised")
        """
    )
    assert done.stdout.strip() == "raised", done.stderr
