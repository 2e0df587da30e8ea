"""The Ray Data pipeline: every file ends somewhere, once; resume; unchanged archives cost one listing."""

from __future__ import annotations

import json
import os
import zipfile
from typing import Any

import pyarrow.parquet as pq
import pytest
from ct_making import ROOT, file_bytes, stack

from osteo_ray.catalogue import indexing
from osteo_ray.catalogue.build import CatalogueSummary, build
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import index_part, part_key, write_listing
from osteo_ray.catalogue.listing import parts
from osteo_ray.catalogue.schema import CATALOGUE
from osteo_ray.config import ConfigError, load
from osteo_ray.dicom.sources import Entry, open_source
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.io.store import Store

pytestmark = pytest.mark.ray


@pytest.fixture
def archive(tmp_path):
    """Two patients: one with two series in loose files, one in a zip; a text file and a truncated slice."""
    root = tmp_path / "archive"
    root.mkdir()
    for i, data in enumerate(stack(90)):
        (root / f"{i}.txt").write_bytes(data)
    for i, data in enumerate(stack(90, SeriesInstanceUID=f"{ROOT}.22", SeriesNumber=3, ConvolutionKernel="BONE")):
        (root / f"bone{i}").write_bytes(data.replace(b".3.", b".8."))
    other: dict[str, Any] = {"StudyInstanceUID": f"{ROOT}.50", "SeriesInstanceUID": f"{ROOT}.51", "PatientID": "P-2"}
    with zipfile.ZipFile(root / "two", "w") as z:
        for i, data in enumerate(stack(80, **other)):
            z.writestr(f"IM{i}", data)
    (root / "readme").write_text("hello")
    (root / "cut").write_bytes(file_bytes(500)[:-40])
    return root


def accounts(out) -> list[str]:
    """Every URI of the catalogue's instances and of files.parquet."""
    series = pq.read_table(out / "catalogue.parquet").to_pylist()
    used = [u for r in series for u in sorted({i["uri"] for i in r["instances"]})]
    return sorted(used + pq.read_table(out / "files.parquet").column("uri").to_pylist())


def test_index_chooses_and_accounts_for_every_file(archive, tmp_path, ray_session):
    out = tmp_path / "out"
    seen = []
    s = build(archive, out, IndexConfig(part_entries=20, bucket_rows=100), progress=lambda *a: seen.append(a))
    table = pq.read_table(out / "catalogue.parquet")
    assert table.schema.equals(CATALOGUE)
    rows = {r["series_uid"]: r for r in table.to_pylist()}
    assert {k: (r["state"], r["code"], r["chosen"], r["choice_rank"]) for k, r in rows.items()} == {
        f"{ROOT}.2": (None, None, True, 1),
        f"{ROOT}.22": ("EXCLUDED", "NOT_CHOSEN", False, 2),
        f"{ROOT}.51": (None, None, True, 1),
    }
    assert f"{ROOT}.2)" in rows[f"{ROOT}.22"]["message"]
    files = {r["code"]: r for r in pq.read_table(out / "files.parquet").to_pylist()}
    assert sorted(files) == ["NOT_DICOM", "TRUNCATED"]
    uris = accounts(out)
    assert len(uris) == len(set(uris)) == 90 + 90 + 80 + 2
    assert (s.instances, s.n_series, s.n_open, s.parts_reused) == (260, 3, 2, 0)
    assert s.parts > 1
    assert {stage for stage, _, _ in seen} == {"list", "headers", "exchange", "series"}
    with SliceStack.from_row(rows[f"{ROOT}.51"]) as stack_:
        assert stack_.axial(40).shape == (16, 16)


def test_unchanged_archive_is_known_by_its_listing_alone(archive, tmp_path, ray_session, monkeypatch):
    out, cfg = tmp_path / "out", IndexConfig(part_entries=40)
    first = build(archive, out, cfg)
    before = pq.read_table(out / "catalogue.parquet")

    def no_reading(*a):
        raise AssertionError("a file was opened")

    monkeypatch.setattr("osteo_ray.dicom.sources.LocalSource.read", no_reading)
    again = build(archive, out, cfg)
    assert again.unchanged
    assert (again.series, again.files) == (first.series, first.files)
    assert pq.read_table(out / "catalogue.parquet").equals(before)


def test_a_new_file_reads_one_part_again(archive, tmp_path, ray_session):
    out, cfg = tmp_path / "out", IndexConfig(part_entries=20)
    first = build(archive, out, cfg)
    (archive / "91").write_bytes(file_bytes(90, 180.0))
    again = build(archive, out, cfg)
    assert (again.instances, again.unchanged) == (first.instances + 1, False)
    assert again.parts - again.parts_reused <= 2


def test_an_interrupted_index_continues_and_ends_the_same(archive, tmp_path, ray_session):
    cfg = IndexConfig(part_entries=20)
    whole = tmp_path / "whole"
    build(archive, whole, cfg)
    cut = tmp_path / "cut"
    (cut / "index").mkdir(parents=True)
    done = 0
    for part in list(parts(open_source(archive).list(), cfg))[
        ::2
    ]:  # what a killed run leaves: some parts, no catalogue
        key = part_key(part, cfg)
        write_listing(part, Store(cut), f"index/{key}")
        index_part(Store(cut), "index/", key, cfg)
        done += 1
    (cut / "index" / ".half.parquet.tmp").write_bytes(b"PAR1")
    s = build(archive, cut, cfg)
    assert s.parts_reused == done > 0
    for name in ("catalogue.parquet", "files.parquet"):
        assert pq.read_table(cut / name).equals(pq.read_table(whole / name))
    assert not list((cut / "index").glob("*.tmp"))


def test_a_changed_threshold_assembles_again_without_reading_headers(archive, tmp_path, ray_session):
    out = tmp_path / "out"
    build(archive, out, IndexConfig())
    s = build(archive, out, load(IndexConfig, overrides=["gates.age_min_y=70"]))
    assert s.parts_reused == s.parts
    assert s.series["EXCLUDED Q_AGE"] == 3
    keyed = build(archive, out, IndexConfig(pseudonym_key="k"))  # pseudonyms are part of the header rows
    assert keyed.parts_reused == 0


def test_patients_are_pseudonyms_everywhere_on_disk(archive, tmp_path, ray_session):
    out = tmp_path / "out"
    build(archive, out, IndexConfig(pseudonym_key="k"))
    for f in out.rglob("*.parquet"):
        text = str(pq.read_table(f).to_pylist())
        assert "P-1" not in text
        assert "Jane" not in text


def test_summary_prints_counts_that_add_up():
    s = CatalogueSummary(
        "o", entries=5, instances=9, series={"OPEN": 1, "EXCLUDED Q_KVP": 2}, files={"EXCLUDED NOT_DICOM": 1}
    )
    text = "\n".join(s.lines())
    assert "9 images in 3 series" in text
    assert "EXCLUDED Q_KVP" in text


def listed(tmp_path, n: int):
    """(entries, listing) of n good files as one part."""
    folder = tmp_path / "ct"
    folder.mkdir()
    for i, data in enumerate(stack(n)):
        (folder / str(i)).write_bytes(data)
    entries = list(open_source(folder).list())
    write_listing(entries, Store(tmp_path), "p")
    return entries


def test_a_file_that_kills_its_reader_ends_as_a_row(tmp_path, monkeypatch):
    entries = listed(tmp_path, 3)
    bad = entries[1].uri
    one = indexing._one

    def dies(source, e, *a):
        if e.uri == bad:
            raise SystemExit  # what a dead worker leaves: no result, only the marker
        return one(source, e, *a)

    monkeypatch.setattr(indexing, "_one", dies)
    for _ in range(3):  # the first death leaves a marker, the next two name the file
        with pytest.raises(SystemExit):
            index_part(Store(tmp_path), "", "p", IndexConfig())
    record = index_part(Store(tmp_path), "", "p", IndexConfig())
    assert (record.files, record.instances) == (1, 2)
    rows = pq.read_table(tmp_path / "p.files.parquet").to_pylist()
    assert [(r["uri"], r["state"], r["code"]) for r in rows] == [(bad, "ERROR", "READER_DIED")]


def test_a_file_that_was_only_at_hand_once_is_read(tmp_path):
    entries = listed(tmp_path, 3)
    marker = tmp_path / "attempts" / "p.json"
    marker.parent.mkdir()
    marker.write_text(json.dumps({"at": entries[1].uri, "deaths": {}}))
    record = index_part(Store(tmp_path), "", "p", IndexConfig())
    assert (record.files, record.instances) == (0, 3)


def test_a_run_that_was_stopped_blames_no_file(archive, tmp_path, ray_session):
    out, cfg = tmp_path / "out", IndexConfig()
    part = next(iter(parts(open_source(archive).list(), cfg)))
    marker = out / "index" / "attempts" / f"{part_key(part, cfg)}.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps({"at": part[0].uri, "deaths": {part[0].uri: 5}}))
    assert not any("READER_DIED" in k for k in build(archive, out, cfg).files)


def test_parts_are_cut_by_content_so_that_an_insertion_stays_local():
    cfg = IndexConfig(part_entries=50)
    entries = [Entry(f"file:///a/{i:05d}", 10, "1") for i in range(3000)]
    keys = {part_key(p, cfg) for p in parts(entries, cfg)}
    grown = [*entries[:1500], Entry("file:///a/01499b", 10, "1"), *entries[1500:]]
    assert len({part_key(p, cfg) for p in parts(grown, cfg)} - keys) <= 2
    assert len(keys) > 20


def test_config_errors_name_the_key():
    with pytest.raises(ConfigError, match=r"gates\.kpv: no such key.*did you mean kvp"):
        load(IndexConfig, overrides=["gates.kpv=100"])
    with pytest.raises(ConfigError, match=r"geometry\.min_slices"):
        load(IndexConfig, overrides=["geometry.min_slices=1"])


def test_shipped_config_is_the_default():
    from pathlib import Path

    path = Path(__file__).parents[2] / "configs" / "index.yaml"
    assert load(IndexConfig, path) == IndexConfig()
    assert os.path.getsize(path) > 0
