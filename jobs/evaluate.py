"""ray job submit --working-dir . -- python jobs/evaluate.py --config configs/evaluate.yaml

The same function that `osteo-ray evaluate` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
