"""ray job submit --working-dir . -- python jobs/screen.py --config configs/screen.yaml

The same function that `osteo-ray screen` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["screen", *sys.argv[1:]]))
