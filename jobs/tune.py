"""ray job submit --working-dir . -- python jobs/tune.py student --config configs/tune.yaml

The same function that `osteo-ray tune` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
