"""`osteo-ray records`: what it prints and writes."""

import pandas as pd

from osteo_ray.cli import main
from osteo_ray.patients import load
from osteo_ray.patients.identity import patient_key


def test_report_match_and_file(tmp_path, capsys):
    (tmp_path / "r.csv").write_text("id,CREA,ward,t\nA,80,x,-2.6\nB,<30,y,\nC,90,z,0\n")
    (tmp_path / "m.yaml").write_text(
        "patient_id: id\nt_score: t\nkeep: [ward]\nfeatures: {creatinine_umol_l: {column: CREA}}\n"
    )
    pd.DataFrame({"patient_key": [patient_key(p, None) for p in ("A", "B", "Z")]}).to_parquet(tmp_path / "c.parquet")
    args = ["records", str(tmp_path / "r.csv"), "--mapping", str(tmp_path / "m.yaml")]
    assert main([*args, "--catalogue", str(tmp_path / "c.parquet"), "--out", str(tmp_path / "o.parquet")]) == 0
    out = capsys.readouterr().out
    assert "bounds, not values ('<5'): creatinine_umol_l 1" in out
    assert "3 records of 3 patients: " in out
    assert "match    2 of 3 patients with records have a CT; 2 of 3 patients with CT have a record" in out
    again = load(tmp_path / "o.parquet").frame
    assert again["label"].tolist()[::2] == ["osteoporosis", "normal"]
    assert again["ward"].tolist() == ["x", "y", "z"]


def test_nothing_is_written_where_a_value_is_refused(tmp_path, capsys):
    (tmp_path / "r.csv").write_text("patient_id,creatinine_umol_l\nA,80\nB,many\n")
    assert main(["records", str(tmp_path / "r.csv"), "--out", str(tmp_path / "o.parquet")]) == 3
    assert "r.csv, line 3, column 'creatinine_umol_l': 'many' is not a number" in capsys.readouterr().err
    assert not (tmp_path / "o.parquet").exists()


def test_a_record_set_is_written_by_partitions(tmp_path, capsys):
    (tmp_path / "r.csv").write_text("patient_id,creatinine_umol_l\nA,80\nB,90\n")
    assert main(["records", str(tmp_path / "r.csv"), "--out", str(tmp_path / "set"), "--partitions", "2"]) == 0
    assert "2 records in 2 partitions" in capsys.readouterr().out
