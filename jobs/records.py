"""ray job submit --working-dir conf -- python jobs/records.py --config records.yaml

The same function that `osteo-ray records` calls.
"""

import sys

from osteo_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["records", *sys.argv[1:]]))
