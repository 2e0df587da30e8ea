"""ray job submit --working-dir . -- python jobs/drift.py --config configs/drift.yaml

The same function that `osteo-ray drift` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["drift", *sys.argv[1:]]))
