"""A Ray node beside the head on one machine: `ray start` would take the head's session for its own.

python worker_node.py PORT CPUS TEMP_DIR
"""

import signal
import sys
import time

from ray._private.node import Node
from ray._private.parameter import RayParams

port, cpus, temp = sys.argv[1:]
node = Node(
    RayParams(
        gcs_address=f"127.0.0.1:{port}",
        node_ip_address="127.0.0.1",
        num_cpus=int(cpus),
        object_store_memory=200_000_000,
        temp_dir=temp,
        min_worker_port=0,
        max_worker_port=0,
        labels={"market": "spot"},
    ),
    head=False,
    shutdown_at_exit=False,
    spawn_reaper=True,
)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", node.node_id, flush=True)
try:
    while not node.dead_processes():
        time.sleep(0.5)
finally:
    node.kill_all_processes(check_alive=False, allow_graceful=True)
