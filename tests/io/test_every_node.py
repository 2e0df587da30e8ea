"""What nodes see of paths; between two machines: tests/cluster."""

import shutil

import pytest

from osteo_ray.io import every_node
from osteo_ray.io.every_node import Finding, _cannot_see, _lines, _look, _Probe, check_nodes, place
from osteo_ray.io.trouble import StoreError


@pytest.fixture
def archive(tmp_path):
    """A folder with a file and a folder in it."""
    (tmp_path / "ct" / "sub").mkdir(parents=True)
    (tmp_path / "ct" / "a.dcm").write_bytes(b"1234")
    return tmp_path / "ct"


def test_a_folder_is_the_drivers_or_another(archive):
    seen = place("archive", str(archive))
    assert seen.files == (("a.dcm", 4), ("sub", None))
    assert _cannot_see(seen) == ""
    (archive / "a.dcm").write_bytes(b"12345")
    assert "a.dcm has 5 bytes, the driver's has 4" in _cannot_see(seen)
    (archive / "a.dcm").unlink()
    assert "another folder" in _cannot_see(seen)
    shutil.rmtree(archive)
    assert _cannot_see(seen) == "is not there"
    archive.mkdir()
    assert _cannot_see(place("archive", str(archive))) == "is an empty folder"


def test_a_service_that_nobody_answers_for(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert "can't be reached" in _cannot_see(place("archive", "dicomweb+http://127.0.0.1:9/dicom-web"))


def test_the_probe_lies_in_the_nearest_folder_and_is_removed(tmp_path, monkeypatch):
    probe = _Probe.write(str(tmp_path / "runs" / "new"))
    assert probe.folder == str(tmp_path)
    assert probe.read() == ""
    assert _look(probe, ())[1] == []
    monkeypatch.setattr(every_node, "APPEAR_S", 0.0)
    (tmp_path / probe.name).write_text("another machine's")
    assert probe.read() == "what the driver wrote there reads otherwise"
    probe.remove()
    assert list(tmp_path.iterdir()) == []
    (_, found) = _look(probe, ())
    assert found[0].key == "out"
    assert "mount the same folder" in found[0].remedy


def test_a_place_that_the_driver_cannot_write(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="can't be written"):
        _Probe.write(str(tmp_path / "file" / "run"))


def test_nodes_that_miss_the_same_share_a_line():
    wrong = [Finding(f"10.0.0.{i}", "records", "/data/r", "is not there", "mount it") for i in range(5)]
    assert _lines([*wrong, Finding("10.0.0.9", "", "", "has osteo-ray 0.0", "use one image")]) == [
        "node 10.0.0.0, 10.0.0.1, 10.0.0.2 and 2 more: records: /data/r: is not there; mount it",
        "node 10.0.0.9: has osteo-ray 0.0; use one image",
    ]


@pytest.mark.ray
def test_a_node_is_asked_by_a_task_and_a_cluster_of_one_by_nobody(ray_session, archive):
    seen = place("archive", str(archive))
    shutil.rmtree(archive)
    check_nodes(str(archive.parent), [seen])  # the driver has looked
    nodes = {n["NodeID"]: n for n in ray_session.nodes()}
    found = every_node._ask(nodes, None, (seen,))
    assert [(f.key, f.why) for f in found] == [("archive", "is not there")]
    assert found[0].node.startswith("127.0.0.1 (")
