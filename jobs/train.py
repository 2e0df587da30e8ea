"""ray job submit --working-dir . -- python jobs/train.py --config configs/train.yaml

The same function that `osteo-ray train` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
