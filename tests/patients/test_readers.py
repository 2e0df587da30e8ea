"""Files as hospitals export them: read, or refused by name, line and remedy; never shifted by a column."""

import decimal
import gzip
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from osteo_ray.patients import Mapping, RecordsError, load
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.readers.workbook import _hidden

CREA = {"patient_id": "id", "date": "day", "features": {"creatinine_umol_l": {"column": "crea"}}}


def mapping(**more):
    return Mapping.model_validate(CREA | more)


def write(tmp_path, data, name="r.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_delimiter_at_the_end_of_every_row_shifts_nothing(tmp_path):
    path = write(tmp_path, "id,day,crea\nA,2024-01-05,61,\nB,2024-01-06,62,\n")
    assert load(path, mapping()).frame["creatinine_umol_l"].tolist() == [61, 62]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("id,day,crea\nA,2024-01-05,61\nB,2024-01-06,62,\n", "line 3: 4 fields, but the header .line 1. has 3 columns"),
        ("id,day,crea\nA,2024-01-05,6,1\n", "line 2: 4 fields.*needs quotes"),
        ("id,day,crea\nA,2024-01-05\n", "line 2: 2 fields.*cut short"),
        ("id,day,crea\nA,2024-01-05,61,\nB,2024-01-06,62\n", "line 3: 3 fields.*the first row 4 fields"),
        ('id,day,crea\nA,2024-01-05,61\nB,"2024-01-06,62\nC,x,1\n', "line 3: a quote is opened and never closed"),
        ('id,day,crea\nA,"2024"-01,61\n', "line 2: text follows a closing quote"),
        ("id,crea,day,crea\nA,1,2024-01-05,61\n", "'crea' stands more than once"),
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("id,day,crea\n", "a header, but no rows"),
        ("Id;Day\nA;2024-01-05\n", "column 'id' .* did you mean 'Id'"),
    ],
)
def test_what_can_not_be_read_is_named_with_its_line(tmp_path, text, error):
    with pytest.raises(RecordsError, match=error):
        load(write(tmp_path, text), mapping())


def test_a_repeated_column_that_nothing_uses_is_listed(tmp_path):
    t = load(write(tmp_path, "id,day,crea,x,x,y\nA,2024-01-05,61,1,2,3\n"), mapping())
    assert t.report is not None
    assert set(t.report.unused_columns) == {"x", "y", "x (twice)"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_that_of_the_header(tmp_path, delimiter):
    text = "id,day,crea\nA,2024-01-05,61\n".replace(",", delimiter)
    assert load(write(tmp_path, text), mapping()).frame["creatinine_umol_l"].tolist() == [61]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marked_and_plain_unicode_is_read(tmp_path, encoding):
    path = write(tmp_path, "id,day,crea,名\nA,2024-01-05,61,王\n".encode(encoding))
    assert load(path, mapping()).frame["creatinine_umol_l"].tolist() == [61]


def test_another_encoding_has_to_be_named_and_is_proposed(tmp_path):
    path = write(tmp_path, "id,day,crea,性别\nA,2024-01-05,61,女\n".encode("gb18030"))
    sex = {"sex_male": {"column": "性别", "codes": {"男": 1, "女": 0}}}
    with pytest.raises(RecordsError, match=r"not utf-8.*`encoding: gb18030`"):
        load(path, mapping(features=sex))
    assert load(path, mapping(features=sex, encoding="gb18030")).frame["sex_male"].tolist() == [0]
    with pytest.raises(RecordsError, match="no such encoding"):
        load(path, mapping(features=sex, encoding="gb-18030-x"))


def test_rows_above_the_header_gzip_and_quoted_line_ends(tmp_path):
    text = 'exported on monday\nid,day,crea,note\nA,2024-01-05,61,"two\nlines"\nB,2024-13-05,61,x\n'
    path = write(tmp_path, gzip.compress(text.encode()), "r.csv.gz")
    with pytest.raises(RecordsError, match=r"r.csv.gz, line 5, column 'day': '2024-13-05' is no date"):
        load(path, mapping(header_row=2))


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nid;day;crea\nA;2024-01-05;61\n",  # how a table tells a spreadsheet its delimiter
        "\n \nid,day,crea\nA,2024-01-05,61\n",
        "id,day,crea\nA,2024-01-05,61\n,,\n , ,\n\x1a",
    ],
)
def test_lines_that_hold_nothing_are_passed_over(tmp_path, text):
    assert load(write(tmp_path, text), mapping()).frame["creatinine_umol_l"].tolist() == [61]


def test_a_header_further_down_is_named(tmp_path):
    with pytest.raises(RecordsError, match=r"the column 'id' stands in line 4; give `header_row: 4`"):
        load(write(tmp_path, "Laboratory\nprinted 2024-01-05\n\nid,day,crea\nA,2024-01-05,61\n"), mapping())
    with pytest.raises(RecordsError, match=r"the column 'id' stands in row 3; give `header_row: 3`"):
        load(workbook(tmp_path, {"labs": [["Laboratory"], [], ["id", "day", "crea"], ["A", None, 61]]}), mapping())


def test_rows_that_are_no_records_are_named(tmp_path):
    path = write(tmp_path, "id,day,crea\n,,umol/L\nA,2024-01-05,61\nid,day,crea\nB,2024-01-05,62\n")
    with pytest.raises(RecordsError) as e:
        load(path, mapping())
    assert "line 2: units, not a record; `skip_rows: 1` passes over the row" in str(e.value)
    assert "line 4: the header stands here once more" in str(e.value)
    assert len(e.value.problems) == 2
    assert len(load(path, mapping(skip_rows=1), on_bad="missing")) == 2


def test_a_mark_counts_whatever_is_named_and_gzip_whatever_the_name(tmp_path):
    text = '"id","day","crea"\nA,2024-01-05,61\n'
    path = write(tmp_path, ("\ufeff" + text).encode())
    assert len(load(path, mapping(encoding="utf-8"))) == 1
    for name in ("r.csv", "r.CSV.GZ"):
        assert len(load(write(tmp_path, gzip.compress(text.encode()), name), mapping())) == 1


def test_nothing_that_a_mapping_reads_is_an_error(tmp_path):
    with pytest.raises(RecordsError, match="no column that the mapping reads"):
        load(write(tmp_path, "patient_id,Sex,Age\n1,F,67\n"))


def test_other_kinds_of_files_are_refused_by_name(tmp_path):
    for name, error in (("r.xls", "save it as .xlsx"), ("r.docx", "not .docx"), ("absent.csv", "no such file")):
        if name != "absent.csv":
            write(tmp_path, "x", name)
        with pytest.raises(RecordsError, match=error):
            load(tmp_path / name)
    with pytest.raises(RecordsError, match="a workbook or zip"):
        load(write(tmp_path, b"PK\x03\x04rest", "r.csv"), mapping())
    with pytest.raises(RecordsError, match="no workbook that can be read"):
        load(write(tmp_path, b"not a zip", "r.xlsx"), mapping())
    with pytest.raises(RecordsError, match="no Parquet that can be read"):
        load(write(tmp_path, b"not parquet at all", "r.parquet"), mapping())


def workbook(tmp_path, sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
        if title == "padded":
            sheet["A2"].number_format = '"P"0000000;-0'
    book.save(tmp_path / "r.xlsx")
    return tmp_path / "r.xlsx"


def test_a_workbook_keeps_zeros_numbers_and_dates(tmp_path):
    rows = [["id", "day", "crea"], ["0012345", pd.Timestamp("2024-01-05 08:30"), 61], [12345.0, "2024-01-06", "62"]]
    f = load(workbook(tmp_path, {"labs": rows}), mapping()).frame
    assert f["patient_key"].tolist() == [patient_key("0012345", None), patient_key("12345", None)]
    assert f["creatinine_umol_l"].tolist() == [61, 62]
    assert [str(d.date()) for d in f["record_date"]] == ["2024-01-05", "2024-01-06"]


def test_a_number_that_a_sheet_shows_with_zeros_is_that_text(tmp_path):
    rows = [["id", "day", "crea"], [12345, None, 61]]
    f = load(workbook(tmp_path, {"padded": rows}), mapping()).frame
    assert f["patient_key"].tolist() == [patient_key("P0012345", None)]


@pytest.mark.parametrize(
    ("form", "number", "shown"),
    [
        ("000\\-00\\-0000", 12345678, "012-34-5678"),
        ("000-00-0000", 12345678, "012-34-5678"),
        ('"P"00\\ 00', 12345, "P123 45"),
        ("0", 12, "12"),
        ("General", 12, "12"),
        ("0.00", 12, "12"),
        ("#,##0", 1234, "1234"),
    ],
)
def test_a_number_is_the_one_that_a_sheet_shows(tmp_path, form, number, shown):
    path = workbook(tmp_path, {"labs": [["id", "day", "crea"], [number, None, 61]]})
    book = openpyxl.load_workbook(path)
    book["labs"]["A2"].number_format = form
    book.save(path)
    assert load(path, mapping()).frame["patient_key"].tolist() == [patient_key(shown, None)]


@pytest.mark.parametrize("form", ['0" umol/L"', '0\\ "kg"', '0 "kg"', '0" Jahre"', '0"+"'])
def test_a_number_that_a_sheet_shows_with_its_unit_is_a_number(tmp_path, form):
    path = workbook(tmp_path, {"labs": [["id", "day", "crea"], ["A", None, 61]]})
    book = openpyxl.load_workbook(path)
    book["labs"]["C2"].number_format = form
    book.save(path)
    assert load(path, mapping()).frame["creatinine_umol_l"].tolist() == [61]


def test_a_damaged_workbook_is_refused(tmp_path):
    path = workbook(tmp_path, {"labs": [["id", "day", "crea"], ["A", None, 61]]})
    data = bytearray(path.read_bytes())
    at = data.index(b"xl/worksheets/sheet1.xml") + len("xl/worksheets/sheet1.xml")
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(RecordsError, match="no workbook that can be read"):
        load(path, mapping())


def test_a_formula_without_a_value_is_not_missing(tmp_path):
    path = workbook(tmp_path, {"labs": [["id", "day", "crea"], ["A", None, "=60+1"]]})
    with pytest.raises(RecordsError, match=r"sheet 'labs', cell C2: a formula without a value"):
        load(path, mapping())


@pytest.mark.parametrize("number", [1.10101199003071e17, 1234567890123450])
def test_an_id_of_more_digits_than_a_spreadsheet_keeps_is_refused(tmp_path, number):
    with pytest.raises(RecordsError, match=r"row 2, column 'id': .* has lost its last digits"):
        load(workbook(tmp_path, {"labs": [["id", "day", "crea"], [number, None, 61]]}), mapping())


def test_of_several_sheets_one_has_to_be_named(tmp_path):
    rows = [["id", "day", "crea"], ["A", None, 61]]
    path = workbook(tmp_path, {"one": rows, "two": rows, "empty": []})
    with pytest.raises(RecordsError, match=r"several sheets.*`sheet: one`"):
        load(path, mapping())
    assert len(load(path, mapping(sheet="two"))) == len(load(path, mapping(sheet=1))) == 1
    with pytest.raises(RecordsError, match="no sheet 'three'"):
        load(path, mapping(sheet="three"))


def test_a_bad_cell_of_a_workbook_is_named_by_sheet_and_row(tmp_path):
    path = workbook(tmp_path, {"labs": [["id", "day", "crea"], ["A", None, "#N/A"]]})
    with pytest.raises(RecordsError, match=r"r.xlsx, sheet 'labs', row 2, column 'crea': '#N/A' is not a number"):
        load(path, mapping())


def test_parquet_with_missing_dates_zones_and_categories(tmp_path):
    frame = pd.DataFrame({
        "id": pd.Categorical(["A", "B", "C"]),
        "day": pd.to_datetime(["2024-03-10T23:30", None, "2024-03-11T01:00"]).tz_localize("Asia/Shanghai"),
        "crea": pd.array([61, None, 63], dtype="Int64"),
    })  # fmt: skip
    frame.to_parquet(tmp_path / "r.parquet")
    f = load(tmp_path / "r.parquet", mapping()).frame
    assert [str(d.date()) if d == d else "" for d in f["record_date"]] == ["2024-03-10", "", "2024-03-11"]
    assert f["creatinine_umol_l"].isna().tolist() == [False, True, False]


def test_long_numbers_of_parquet_stay_whole_beside_missing_ones(tmp_path):
    ids = pa.array([110101199003071234, None, 110101199003071235], pa.int64())
    pq.write_table(pa.table({"id": ids, "day": [None] * 3, "crea": [61.0, 62.0, 63.0]}), tmp_path / "r.parquet")
    t = load(tmp_path / "r.parquet", mapping(), on_bad="missing")
    assert [t.ids[k][0] for k in t.frame["patient_key"].dropna()] == ["110101199003071234", "110101199003071235"]
    pq.write_table(pa.table({"id": [1.1e17], "day": [None], "crea": [61.0]}), tmp_path / "f.parquet")
    with pytest.raises(RecordsError, match="has lost its last digits"):
        load(tmp_path / "f.parquet", mapping())


def test_bytes_lists_and_equal_names_of_parquet(tmp_path):
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"id": [b"007"], "day": [b"2024-01-05"], "crea": [61.0]}), path)
    assert load(path, mapping()).frame["patient_key"].tolist() == [patient_key("007", None)]
    pq.write_table(pa.table({"id": ["A"], "day": [None], "crea": [[61.0]]}), path)
    with pytest.raises(RecordsError, match=r"column 'crea' .creatinine_umol_l. holds lists, not values"):
        load(path, mapping())
    pq.write_table(pa.table({"id": ["A"], "day": [None], "crea": [61.0], "drugs": [["x", "y"]]}), path)
    assert load(path, mapping()).frame["creatinine_umol_l"].tolist() == [61]
    pq.write_table(pa.table([["A"], [None], [61.0], [62.0]], names=["id", "day", "crea", "crea"]), path)
    with pytest.raises(RecordsError, match="'crea' stands more than once"):
        load(path, mapping())


def test_a_folder_of_tables_is_one_source(tmp_path):
    for k in range(2):
        write(tmp_path, f"id,day,crea\nP{k},2024-01-05,6{k}\n", f"r{k}.csv")
    workbook(tmp_path, {"labs": [["id", "day", "crea"], ["P3", None, 61]]})
    for name in ("._r0.csv", "~$r.xlsx", "note.md"):
        write(tmp_path, b"\x00", name)
    t = load(tmp_path, mapping())
    assert len(t) == 3
    assert t.report is not None
    assert t.report.dropped == (("file note.md", 1),)


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("CREA\n(umol/L)", "CREA (umol/L)"),
        ("CREA (\u00b5mol/L)", "CREA (\u03bcmol/L)"),
        ("ＣＲＥＡ", "CREA"),
        ("WBC 10³", "WBC 10³"),
        ("Gro\u0308\u00dfe", "Gr\u00f6\u00dfe"),
    ],
)
def test_names_of_columns_that_look_the_same_are_the_same(tmp_path, header, column):
    m = mapping(features={"creatinine_umol_l": {"column": column}})
    rows = [["id", "day", header], ["A", None, 61]]
    for path in (workbook(tmp_path, {"labs": rows}), write(tmp_path, f'id,day,"{header}"\nA,,61\n')):
        assert load(path, m).frame["creatinine_umol_l"].tolist() == [61]


def test_a_header_that_was_not_cut_or_is_not_there_is_told(tmp_path):
    with pytest.raises(RecordsError, match="the header is one column: is its `delimiter` right"):
        load(write(tmp_path, "id^day^crea\nA^^61\n"), mapping())
    with pytest.raises(RecordsError, match="line 2: a cell of more than 1048576 characters"):
        load(write(tmp_path, "id,day,crea\nA,," + "6" * (1 << 21) + "\n"), mapping())
    with pytest.raises(RecordsError, match="nothing stands in line 9"):
        load(write(tmp_path, "id,day,crea\nA,,61\n"), mapping(header_row=9))


def test_a_record_is_never_passed_over_as_a_row_of_units(tmp_path):
    text = "id,day,crea\nA1,2024-01-05,61\nA2,2024-01-06,62\n"
    with pytest.raises(
        RecordsError, match=r"r.csv, line 2: `skip_rows` would pass over .* a value under 'crea'.*leave `skip_rows` out"
    ):
        load(write(tmp_path, text), mapping(skip_rows=1))
    rows = [["id", "day", "crea"], [12345, None, 61], [12346, None, 62]]
    with pytest.raises(RecordsError, match=r"sheet 'labs', row 2: `skip_rows` would pass over"):
        load(workbook(tmp_path, {"labs": rows}), mapping(skip_rows=1))
    for under in (
        ",,umol/L",
        "1,2,3",
        "0,1,2",
        "Example 1,2024-01-05,61",
        "例1,2024-01-05,61",
        "F001,D02,2160-0",
        "lower limit,,60",
    ):
        path = write(tmp_path, text.replace("crea\n", f"crea\n{under}\n"))
        assert len(load(path, mapping(skip_rows=1))) == 2


def test_a_sheet_that_begins_further_down_is_one_of_several(tmp_path):
    rows = [["id", "day", "crea"], ["A", None, 61]]
    path = workbook(tmp_path, {"2023": rows, "2024": [["Laboratory"], *[[]] * 7, *rows], "late": [*[[]] * 8, *rows]})
    with pytest.raises(RecordsError, match=r"several sheets hold rows"):
        load(path, mapping())
    assert len(load(path, mapping(sheet="late"))) == 1


def test_a_line_is_named_rightly_under_a_header_of_several_lines(tmp_path):
    path = write(tmp_path, 'id,day,"crea\n(umol/L)"\nA,2024-01-05,x\n')
    with pytest.raises(RecordsError, match=r"line 3, column 'crea \(umol/L\)': 'x' is not a number"):
        load(path, mapping(features={"creatinine_umol_l": {"column": "crea (umol/L)"}}))


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (pd.Timestamp("2024-03-12"), "a date, as a spreadsheet makes of 3-12"),
        ("2024-03-12 00:00:00", "a date, as a spreadsheet makes of 3-12"),
        (12345.5, "'12345.5' has digits behind the point"),
        ("12345¹", "'12345¹' has a raised or circled digit"),
    ],
)
def test_what_a_spreadsheet_made_of_a_number_is_no_patient(tmp_path, number, why):
    with pytest.raises(RecordsError, match=rf"row 2, column 'id': .*{why}"):
        load(workbook(tmp_path, {"labs": [["id", "day", "crea"], [number, None, 61]]}), mapping())


def test_a_short_float_is_no_long_number(tmp_path):
    pq.write_table(
        pa.table({"id": pa.array(np.array([1e7, 123456789], np.float32)), "crea": [61, 62]}), tmp_path / "r.parquet"
    )
    with pytest.raises(RecordsError, match=r"row 2, column 'id': '1.234568E\+08' has lost its last digits"):
        load(tmp_path / "r.parquet", mapping(date=None))
    t = load(tmp_path / "r.parquet", mapping(date=None), on_bad="missing")
    assert t.frame["patient_key"][0] == patient_key("10000000", None)
    assert t.frame["patient_key"].isna().tolist() == [False, True]


def report(table):
    assert table.report is not None
    return table.report


def test_a_total_among_the_patients_is_told(tmp_path):
    def notes(text):
        return "; ".join(report(load(write(tmp_path, text), mapping())).notes)

    text = "id,day,crea\n" + "".join(f"P{k},2024-01-05,61\n" for k in range(1, 9))
    told = "line 10, column 'id': 2 of 10 patients have a number without a digit but 0, in 3 rows"
    assert told in notes(text + "Total,,70\n0,2024-01-05,61\n0,2024-01-06,61\n")
    assert not notes(text)
    assert not notes("id,day,crea\nA,2024-01-05,61\nB1,2024-01-05,61\n")


def test_hidden_rows_are_read_and_told(tmp_path):
    path = workbook(tmp_path, {"labs": [["id", "day", "crea"], ["A", None, 61], ["B", None, 62]]})
    assert not report(load(path, mapping())).notes
    book = openpyxl.load_workbook(path)
    book["labs"].row_dimensions[3].hidden = True
    book.save(path)
    t = load(path, mapping())
    assert len(t) == 2
    assert report(t).notes == (
        "r.xlsx, sheet 'labs': 1 rows are hidden, and read like the others; take them out if they do not count",
    )


def test_hidden_rows_of_a_hostile_sheet_are_counted_in_time(tmp_path):
    row = b'<row r="1" hidden="1">'
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as z:
        z.writestr("sheet", b"<row " * 1_000_000 + row + b" " * (3 << 20) + row)
    sheet = SimpleNamespace(_worksheet_path="sheet", title="labs")
    started = time.monotonic()
    assert "2 rows are hidden" in _hidden(tmp_path / "r.zip", sheet, "r")[0]
    assert time.monotonic() - started < 20


def test_a_column_without_a_name_is_listed_where_it_holds_values(tmp_path):
    t = load(write(tmp_path, ",id,,day,crea\n0,A,,2024-01-05,61\n1,B,,2024-01-05,62\n"), mapping())
    assert report(t).unused_columns == ("(column 1, without a name)",)
    rows = [["id", "day", None, "crea"], ["A", None, 5, 61]]
    assert report(load(workbook(tmp_path, {"labs": rows}), mapping())).unused_columns == ("(column 3, without a name)",)


def test_a_number_that_means_missing_does_so_as_a_decimal(tmp_path):
    weights = pa.array([decimal.Decimal("99.00"), decimal.Decimal("70.50")], pa.decimal128(8, 2))
    pq.write_table(pa.table({"id": ["A", "B"], "w": weights}), tmp_path / "r.parquet")
    features = {"weight_kg": {"column": "w", "missing": [99]}}
    f = load(tmp_path / "r.parquet", mapping(date=None, features=features)).frame
    assert f["weight_kg"].tolist() == pytest.approx([np.nan, 70.5], nan_ok=True)
