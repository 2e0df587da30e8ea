"""ray job submit --working-dir . -- python jobs/index.py --config configs/index.yaml

The same function that `osteo-ray index` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
