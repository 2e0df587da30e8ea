"""Each field case of records ends as its manifest states."""

import pytest
import records_field

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    "case", records_field.CASES, ids=[f"{c.file}-{c.mapping or 'default'}" for c in records_field.CASES]
)
def test_a_field_case_ends_as_it_should(case, real_data):
    folder = real_data / "field" / "records"
    if not folder.is_dir():
        pytest.skip(f"no field cases at {folder}")
    got, right = records_field.run_case(case, folder)
    assert right, records_field.happened(got)
