"""ray job submit --working-dir . -- python jobs/report.py --config configs/report.yaml

The same function that `osteo-ray report` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
