"""ray job submit --working-dir . -- python jobs/serve.py --config configs/serve.yaml

The same function that `osteo-ray serve` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
