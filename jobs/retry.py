"""ray job submit --working-dir conf -- python jobs/retry.py --config screen.yaml --code TIMEOUT

The same function that `osteo-ray retry` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["retry", *sys.argv[1:]]))
