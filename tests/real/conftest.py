"""Real data lies beside the repository (../shared/data); where it does not, these tests skip."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    path = Path(__file__).parents[2].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real data not present at {path}")
    return path
