"""ray job submit --working-dir . -- python jobs/cohort.py --config configs/cohort.yaml

The same function that `osteo-ray cohort` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["cohort", *sys.argv[1:]]))
