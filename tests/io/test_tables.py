import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from osteo_ray.io.tables import row_range, rows_by_number


@pytest.fixture
def parquet(tmp_path):
    pq.write_table(pa.table({"a": range(10), "b": [str(i) for i in range(10)]}), tmp_path / "t", row_group_size=3)
    with pq.ParquetFile(tmp_path / "t") as f:
        yield f


def test_rows_come_by_number_a_row_group_at_a_time(parquet):
    tables = list(rows_by_number(parquet, np.array([0, 2, 3, 9]), ["a"]))
    assert [t["a"].to_pylist() for t in tables] == [[0, 2], [3], [9]]
    assert list(rows_by_number(parquet, np.array([], int))) == []


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (2, 7), (3, 6), (9, 10), (4, 4)])
def test_a_range_of_rows(parquet, start, stop):
    t = row_range(parquet, start, stop)
    assert t["a"].to_pylist() == list(range(start, stop))
    assert t.column_names == ["a", "b"]
