"""ray job submit --working-dir . -- python jobs/recalibrate.py --config configs/recalibrate.yaml

The same function that `osteo-ray recalibrate` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["recalibrate", *sys.argv[1:]]))
