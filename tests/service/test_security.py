"""Attacks on what the service reads: paths, links, addresses. Each was tried by hand first (docs/service.md)."""

import os

import pytest

from osteo_ray.config import ConfigError, validate
from osteo_ray.service.config import Archives, ServeConfig, check
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.security import allowed_archive, allowed_dicomweb

PACS = "https://pacs.example/dicom-web"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "ct" / "a").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "ct2").mkdir()
    (tmp_path / "ct" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "ct" / "catalogue.parquet").write_bytes(b"PAR1")
    return tmp_path / "ct"


def test_inside_is_allowed(root):
    assert allowed_archive(str(root / "a"), Archives(roots=(str(root),))) == str(root / "a")
    assert allowed_archive(f"{root}/a/../a", Archives(roots=(str(root),))) == str(root / "a")


@pytest.mark.parametrize(
    "path",
    [
        "{root}/../secret",
        "{root}/a/../../secret",
        "{root}/out",
        "{root}2",
        "/etc",
        "/",
        "a",
        "{root}/catalogue.parquet",
        "file://{root}/a",
        "file:///etc/passwd",
        "http://127.0.0.1:8265/",
        "https://169.254.169.254/latest/meta-data",
        "memory://x",
        "simplecache::http://127.0.0.1/",
        "zip://x::file:///etc/passwd",
        "s3://other/x",
        "s3://ct-archive-2/x",
        "s3://ct-archive/2024/../2023",
        "s3://ct-archive/2024/%2e%2e/2023",
        "gs://ct-archive/2024/x",
        "{root}/a\0/x",
    ],
)
def test_outside_is_refused(root, path):
    archives = Archives(roots=(str(root),), buckets=("s3://ct-archive/2024/",))
    with pytest.raises(Problem) as e:
        allowed_archive(path.format(root=root), archives)
    assert e.value.status_code in (403, 422)


def test_outside_tells_nothing_of_what_exists(root, tmp_path):
    answers = []
    for path in (tmp_path / "secret", tmp_path / "no such"):
        with pytest.raises(Problem) as e:
            allowed_archive(str(path), Archives(roots=(str(root),)))
        answers.append((e.value.status_code, e.value.detail))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/dicom-web/studies/1.2",
        "https://pacs.example@evil.example/dicom-web/studies/1.2",
        "https://pacs.example.evil.example/dicom-web/studies/1.2",
        "http://pacs.example/dicom-web/studies/1.2",
        "https://pacs.example:8443/dicom-web/studies/1.2",
        "https://pacs.example/dicom-web/../admin",
        "https://pacs.example/dicom-web%2f..%2fadmin",
        "https://pacs.example/dicom-webadmin",
        "https://pacs.example/dicom-web/instances",
        "https://pacs.example/dicom-web/studies/1.2?x=1",
        "https://pacs.example\\@evil.example/dicom-web/studies/1.2",
        "https://pacs.example/dicom-web/studies/1.2\r\nHost: evil",
        "ftp://pacs.example/dicom-web",
        "https://[::1]:bad/",
        "http://127.0.0.1:8042/dicom-web/studies/1.2",
        "http://2130706433/dicom-web/studies/1.2",
    ],
)
def test_other_services_are_refused(url):
    with pytest.raises(Problem) as e:
        allowed_dicomweb(url, Archives(dicomweb=(PACS,)), lambda h, p: ["93.184.216.34"])
    assert e.value.status_code in (403, 422)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1"]
)
def test_a_name_that_points_here_is_refused(address):
    with pytest.raises(Problem):
        allowed_dicomweb(f"{PACS}/studies/1.2", Archives(dicomweb=(PACS,)), lambda h, p: ["93.184.216.34", address])


def test_configured_services_are_allowed():
    resolve = {"pacs.example": ["10.1.2.3"], "127.0.0.1": ["127.0.0.1"]}
    archives = Archives(dicomweb=(PACS, "http://127.0.0.1:8042/dicom-web"))
    for url in (PACS, f"{PACS}/studies/1.2.3", "http://127.0.0.1:8042/dicom-web/studies/1.2/series/3.4"):
        assert allowed_dicomweb(url, archives, lambda h, p: resolve[h]) == f"dicomweb+{url}"


def test_a_redirect_of_a_service_is_an_error(tmp_path):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from osteo_ray.dicom.sources import open_source

    asked = []

    class Away(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.connection.getsockname()[1]}/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            return

    server = HTTPServer(("127.0.0.1", 0), Away)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        source = open_source(f"dicomweb+http://127.0.0.1:{server.server_port}/dicom-web/studies/1.2.3")
        with pytest.raises(OSError, match="302"):
            list(source.list())
    finally:
        server.shutdown()
    assert all(p.startswith("/dicom-web/studies/1.2.3/series") for p in asked)


def test_links_in_an_archive_are_listed_but_not_read(root, tmp_path):
    from osteo_ray.dicom.sources import LocalSource

    (tmp_path / "secret" / "x.dcm").write_bytes(b"private")
    (root / "a" / "x.dcm").symlink_to(tmp_path / "secret" / "x.dcm")
    found = {os.path.basename(e.uri): e.code for e in LocalSource(root, follow_links=False).list()}
    assert found == {"x.dcm": "NOT_REGULAR", "out": "NOT_REGULAR", "catalogue.parquet": None}


def test_it_refuses_to_start_in_public_without_tokens(tmp_path):
    data = {"runs": str(tmp_path / "r"), "bundle": "b", "host": "0.0.0.0"}
    with pytest.raises(ConfigError, match="serve token"):
        check(validate(ServeConfig, data))
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(ConfigError, match="serve token"):
        check(validate(ServeConfig, data | {"tokens": str(tmp_path / "empty.json")}))
    assert check(validate(ServeConfig, data | {"host": "127.0.0.1"})).on_loopback
    for host in ("127.0.0.1.example", "10.0.0.1", "::"):
        assert not validate(ServeConfig, {"host": host}).on_loopback
