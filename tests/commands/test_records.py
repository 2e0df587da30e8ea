"""`osteo-ray records`: what it prints and writes."""

import json

import numpy as np
import pandas as pd

from osteo_ray.cli import main
from osteo_ray.patients import load
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.mapping import Mapping
from osteo_ray.patients.record_set import open_record_set


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
    assert "3 records of 3 patients: osteoporosis 1, unlabelled 1, normal 1" in out
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


def test_numbers_of_a_site_meet_those_of_its_results(tmp_path, capsys):
    """`site` where neither mapping nor rows name one; the record set's patients are then judged by another's scores."""
    rng = np.random.default_rng(0)
    t = rng.normal(-1.8, 1.2, 60)
    rows = "".join(f"P{i:03d},61,F,{v:.1f},2024-01-05\n" for i, v in enumerate(t))
    (tmp_path / "r.csv").write_text("patient_id,age_y,sex,t_score,record_date\n" + rows)
    where = ["--set", "site=north", "identity.case=upper"]
    source, record_set = str(tmp_path / "r.csv"), str(tmp_path / "set")
    assert main(["records", source, "--out", record_set, "--partitions", "3", *where]) == 0
    keys = set(open_record_set(record_set).label_facts()["patient_key"])
    assert keys == {patient_key(f"P{i:03d}", None, site="north") for i in range(60)}
    scores = "".join(f"p{i:03d},{-v + 0.1 * (i % 7):.2f}\n" for i, v in enumerate(t))
    (tmp_path / "s.csv").write_text("patient_id,score\n" + scores)
    capsys.readouterr()
    judge = ["evaluate", str(tmp_path / "s.csv"), "--labels", record_set, "--out", str(tmp_path / "e"), *where]
    assert main([*judge, "resamples=100"]) == 0
    ev = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert (ev["patients_scored"], ev["patients_labelled"]) == (60, 60)


def test_a_site_of_the_mapping_or_of_the_row_goes_before_the_commands(tmp_path):
    (tmp_path / "r.csv").write_text("id,ward,crea\n1,east,80\n2,,90\n")
    columns = {"patient_id": "id", "features": {"creatinine_umol_l": {"column": "crea"}}}
    by_row = load(tmp_path / "r.csv", Mapping.model_validate(columns | {"site_column": "ward"}), site="north").frame
    assert by_row["site"].tolist() == ["east", "north"]
    assert by_row["patient_key"].tolist() == [patient_key("1", None, site="east"), patient_key("2", None, site="north")]
    by_mapping = load(tmp_path / "r.csv", Mapping.model_validate(columns | {"site": "west"}), site="north").frame
    assert set(by_mapping["site"]) == {"west"}
