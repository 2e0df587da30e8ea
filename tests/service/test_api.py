"""The whole interface against a finished screening and the real scorer, in this process."""

import json
import zipfile
from functools import partial
from pathlib import Path

import anyio
import httpx
import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from serving import LocalScoring, QuietSupervisor, config, finished, runs_of, study_config, study_zip
from starlette.requests import Request
from starlette.testclient import TestClient

from osteo_ray.config import ConfigError, validate
from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.store import Store
from osteo_ray.reports.language import catalogue
from osteo_ray.reports.result_json import schema
from osteo_ray.reports.source import read_header
from osteo_ray.service.config import ServeConfig, ServiceLimits, check
from osteo_ray.service.http.access import _bounded
from osteo_ray.service.http.app import ROUTERS, create
from osteo_ray.service.http.problems import Problem
from osteo_ray.service.http.uploads import SPOOL
from osteo_ray.service.runs import RunState
from osteo_ray.service.tokens import Role, Tokens

pytestmark = pytest.mark.ray
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def served(cohort_run, bundle_dir, tmp_path_factory):
    """(client, run, tokens by role) of one service for the whole file."""
    home = tmp_path_factory.mktemp("service")
    file = Tokens(home / "tokens.json")
    secrets = {r: file.add(f"the {r} one", r) for r in Role}
    cfg = config(home, cohort_run, bundle_dir, tokens=str(home / "tokens.json"), limits={"body_kb": 8, "upload_mb": 64})
    run = finished(cfg, cohort_run)
    assert run.saved.state == RunState.DONE, run.saved.error
    with TestClient(create(cfg, LocalScoring(cfg), QuietSupervisor(runs_of(cfg)))) as client:
        yield client, run, secrets, cfg


def bearer(served, role=Role.READ):
    return {"Authorization": f"Bearer {served[2][role]}"}


def test_status_results_and_worklist_account_for_every_series(served, cohort_run):
    client, run, _, _ = served
    n = len(open_set(cohort_run.catalogue))
    status = client.get(f"/v1/screenings/{run.id}", headers=bearer(served)).json()
    assert status["state"] == "DONE"
    assert status["series"] == n == sum(status["counts"].values())
    assert status["done"] == status["total"]

    seen, offset = [], 0
    while page := client.get(
        f"/v1/screenings/{run.id}/results?offset={offset}&limit=200", headers=bearer(served)
    ).json()["items"]:
        for doc in page:
            jsonschema.validate(doc, schema())
        seen += [d["series_uid"] for d in page]
        offset += len(page)
    assert len(seen) == n
    catalogue = pq.read_table(Path(run.out) / "catalogue.parquet")["series_uid"].to_pylist()
    assert seen == catalogue, "pages come in the catalogue's order"
    parquet = client.get(f"/v1/screenings/{run.id}/results?format=parquet", headers=bearer(served))
    assert parquet.content == (Path(run.out) / "results.parquet").read_bytes()

    work = client.get(f"/v1/screenings/{run.id}/worklist?limit=500", headers=bearer(served)).json()
    assert work["total"] == n
    risks = [r["risk_prob"] for r in work["items"] if r["risk_prob"] is not None]
    assert risks, "the synthetic archive has scored series"
    assert [r["rank"] for r in work["items"]][: len(risks)] == sorted(r["rank"] for r in work["items"] if r["rank"])
    assert all(r["risk_prob"] is None for r in work["items"][len(risks) :])

    def cut(query):
        got = client.get(f"/v1/screenings/{run.id}/worklist?limit=500&{query}", headers=bearer(served)).json()
        assert got["total"] == len(got["items"])
        return got["items"]

    for query, keeps in {
        "sex=F&age_min=60": lambda r: r["sex"] == "F" and (r["age_y"] or 0) >= 60,
        "age_max=65": lambda r: r["age_y"] is not None and r["age_y"] <= 65,
        "modality=labs": lambda r: "labs" in r["modalities"],
        "state=SCORED&state=EXCLUDED": lambda r: r["state"] in ("SCORED", "EXCLUDED"),
        "judged=false": lambda r: not r["feedback"],
        "judged=true": lambda r: bool(r["feedback"]),
    }.items():
        assert cut(query) == [r for r in work["items"] if keeps(r)], query
    page = client.get(f"/v1/screenings/{run.id}/worklist?limit=3&offset=2", headers=bearer(served)).json()
    assert (page["total"], page["items"]) == (n, work["items"][2:5])


def test_a_patient_whom_the_worklist_leaves_out_says_why(served):
    client, run, _, _ = served

    def listed():
        items = client.get(f"/v1/screenings/{run.id}/worklist?limit=500", headers=bearer(served)).json()["items"]
        return {(r["patient_key"], r["suppressed"]) for r in items if r["rank"]}

    before = listed()
    assert {code for _, code in before} == {None}
    path = Path(run.out) / "patients.parquet"
    whole = pq.read_table(path)
    rows = whole.to_pylist()
    rows[0] |= {"known": "KNOWN_DXA", "suppressed": True}
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=whole.schema), path)
        assert listed() - before == {(rows[0]["patient_key"], "KNOWN_DXA")}
    finally:
        pq.write_table(whole, path)


def test_study_page_slices_and_feedback(served):
    client, run, _, _ = served
    top = client.get(f"/v1/screenings/{run.id}/worklist?limit=1", headers=bearer(served)).json()["items"][0]
    at = f"/v1/screenings/{run.id}/studies/{top['row_key']}"
    study = client.get(at, headers=bearer(served)).json()
    assert study["readable"]
    chosen = study["result"]["selected"]
    assert len(study["page"]["slices"]) == len(chosen)
    raw = client.get(f"{at}/slices/{chosen[0]['index']}", headers=bearer(served))
    assert len(raw.content) == 2 * int(raw.headers["X-Rows"]) * int(raw.headers["X-Cols"])
    assert client.get(f"{at}/slices/{study['slices_total']}", headers=bearer(served)).json()["code"] == "NO_SLICE"
    assert (
        client.post(f"{at}/feedback", headers=bearer(served), json={"verdict": "reject", "note": "metal"}).status_code
        == 201
    )
    client.post(f"{at}/feedback", headers=bearer(served), json={"verdict": "accept"})
    judged = client.get(f"/v1/screenings/{run.id}/worklist?judged=true", headers=bearer(served)).json()["items"]
    assert [f["verdict"] for r in judged for f in r["feedback"]] == ["accept"]  # a person's last word counts


def test_texts_for_people_are_in_the_language_asked_for(served):
    client, run, _, _ = served
    at = f"/v1/screenings/{run.id}/worklist?limit=500"
    german, chinese = (client.get(f"{at}&lang={lang}", headers=bearer(served)).json()["items"] for lang in ("de", "zh"))
    browsers = client.get(at, headers=bearer(served) | {"Accept-Language": "de-CH"}).json()["items"]
    assert [r["note"] for r in browsers] == [r["note"] for r in german]
    closed = [(a, b) for a, b in zip(german, chinese, strict=True) if a["risk_prob"] is None]
    assert closed
    assert all(a["code"] == b["code"] and a["why"] and b["why"] and a["why"] != b["why"] for a, b in closed)
    study = client.get(f"/v1/screenings/{run.id}/studies/{german[0]['row_key']}?lang=de", headers=bearer(served)).json()
    assert study["page"]["checks"][0]["name"] == "Art der Bilder"
    for header, lang, found in (("de", None, "de"), ("de", "zh", "zh"), ("de", "xx", "de"), ("fr", None, "en")):
        asked = client.get("/words", params={"lang": lang} if lang else {}, headers={"Accept-Language": header})
        assert asked.json()["language"] == found
        assert set(asked.json()["texts"]) == set(catalogue())


def test_names_and_numbers_are_shown_where_the_config_allows_it(served):
    _, run, _, cfg = served
    open_cfg = cfg.model_copy(update={"identifiers": True})
    at = f"/v1/screenings/{run.id}/worklist?limit=500"
    hidden = served[0].get(at, headers=bearer(served)).json()["items"]
    assert {r["identity"] for r in hidden} == {None}
    with TestClient(create(open_cfg, LocalScoring(open_cfg), QuietSupervisor(runs_of(open_cfg)))) as client:
        shown = client.get(at, headers=bearer(served)).json()["items"]
        row = next(r for r in shown if r["identity"])
        study = client.get(f"/v1/screenings/{run.id}/studies/{row['row_key']}", headers=bearer(served)).json()
    assert study["identity"] == row["identity"]
    series = run.catalogue_row(study["result"]["study_uid"], study["result"]["series_uid"])
    header = read_header(series["instances"][0])
    assert row["identity"]["number"] == str(header.PatientID) != row["patient_key"]
    log = (cfg.runs and (Path(cfg.runs) / "audit.jsonl").read_text()) or ""
    assert '"worklist"' in log
    assert str(header.PatientID) not in log


def test_score_one_study(served, cohort_run, tmp_path):
    client = served[0]
    path = study_zip(cohort_run, tmp_path / "study.zip")
    send = bearer(served, Role.SUBMIT)
    answer = client.post(
        "/v1/studies:score",
        headers=send,
        files={"study": path.read_bytes()},
        data={"record": '{"age_y": 67, "sex": "F"}'},
    )
    assert answer.status_code == 200, answer.text
    jsonschema.validate(answer.json(), schema())
    assert answer.json()["model"]["sha256"]
    assert answer.headers["X-Model"].startswith("synthetic 0 ")
    bad = client.post(
        "/v1/studies:score", headers=send, files={"study": path.read_bytes()}, data={"record": '{"age_y": 670}'}
    )
    assert (bad.status_code, bad.json()["code"]) == (422, "RECORD")
    assert "670" in bad.json()["detail"]
    assert list(Path(runs_of(served[3]).store.path(SPOOL)).iterdir()) == []


@pytest.mark.slow
def test_a_bucket_answers_as_a_disk_does(served, cohort_run, bundle_dir, s3, tmp_path):
    """The same screening and the same bundle, copied into a bucket."""
    client, run, _, cfg = served
    home = Store(f"{s3}/service")
    for name in run.store.tree(""):
        home.put(f"{run.id}/{name}", run.store.get(name))
    for file in bundle_dir.iterdir():
        home.upload(file, f"bundle/{file.name}")
    far_cfg = cfg.model_copy(update={"runs": home.uri, "bundle": home.path("bundle")})
    admin = bearer(served, Role.ADMIN)
    top = client.get(f"/v1/screenings/{run.id}/worklist", headers=admin).json()["items"][0]["row_key"]
    at = f"/v1/screenings/{run.id}"
    with TestClient(create(far_cfg, LocalScoring(far_cfg), QuietSupervisor(runs_of(far_cfg)))) as far:
        assert far.get("/v1/ready").json() == {"status": "ok"}
        for path in (
            "",
            "/worklist",
            "/results",
            "/results?format=parquet",
            f"/studies/{top}",
            f"/studies/{top}/slices/3",
        ):
            near_answer, far_answer = (c.get(at + path, headers=admin) for c in (client, far))
            assert near_answer.status_code == far_answer.status_code == 200, path
            assert near_answer.content == far_answer.content, path
        judged = far.post(f"{at}/studies/{top}/feedback", headers=admin, json={"verdict": "accept"})
        assert judged.status_code in (200, 201), judged.text
        study = far.get(f"{at}/studies/{top}", headers=admin).json()
        assert study["feedback"][-1]["by"] == "the admin one"
        zipped = study_zip(cohort_run, tmp_path / "study.zip").read_bytes()
        scored = far.post("/v1/studies:score", headers=admin, files={"study": zipped})
        assert scored.status_code == 200, scored.text
        assert home.written(f"{SPOOL}/") == {}
        new = far.post("/v1/screenings", headers=admin, json={"archive": str(cohort_run.archive)}).json()["id"]
        assert [r.id for r in runs_of(far_cfg).open()] == [new]
        assert far.delete(f"/v1/screenings/{new}", headers=admin).json()["state"] == "CANCELLED"
        assert runs_of(far_cfg).open() == []
        actions = [line["action"] for line in far.get("/v1/audit", headers=admin).json()["lines"]]
    assert actions[-3:] == ["score", "submit", "cancel"]


def test_submit_queues_and_cancel_ends(served, cohort_run):
    client = served[0]
    send = bearer(served, Role.SUBMIT)
    new = client.post(
        "/v1/screenings", headers=send, json={"archive": str(cohort_run.archive), "options": {"shap": False}}
    )
    assert (new.status_code, new.json()["state"]) == (202, "QUEUED")
    at = f"/v1/screenings/{new.json()['id']}"
    assert client.get(f"{at}/results?format=parquet", headers=send).json()["code"] == "NOT_DONE"
    assert client.delete(at, headers=send).json()["state"] == "CANCELLED"
    assert client.delete(at, headers=send).status_code == 409
    events = client.get(f"{at}/events", headers=send)
    assert '"state":"CANCELLED"' in events.text


def test_a_screening_is_resumed_by_its_owner(served, cohort_run):
    client = served[0]
    send, admin = bearer(served, Role.SUBMIT), bearer(served, Role.ADMIN)
    new = client.post("/v1/screenings", headers=send, json={"archive": str(cohort_run.archive)}).json()
    at = f"/v1/screenings/{new['id']}"
    assert client.post(f"{at}:resume", headers=send).json()["code"] == "NOT_ENDED"
    client.delete(at, headers=send)
    assert client.post(f"{at}:resume", headers=bearer(served)).status_code == 403
    again = client.post(f"{at}:resume", headers=send)
    assert (again.status_code, again.json()["state"]) == (202, "QUEUED")
    client.delete(at, headers=admin)
    theirs = client.post("/v1/screenings", headers=admin, json={"archive": str(cohort_run.archive)}).json()["id"]
    client.delete(f"/v1/screenings/{theirs}", headers=admin)
    assert client.post(f"/v1/screenings/{theirs}:resume", headers=send).json()["code"] == "NOT_YOURS"
    assert client.post("/v1/screenings/0123456789abcdef:resume", headers=send).status_code == 404
    assert client.get(at, headers=send).json()["state"] == "CANCELLED"


def test_the_interface_states_its_errors_and_headers(served):
    """What a client is generated from: every operation's 500 and 503, and the headers that a slice can't be read
    without."""
    api = served[0].get("/v1/openapi.json").json()
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            assert {"500", "503"} <= set(operation["responses"]), (method, path)
    (slices,) = (p for p in api["paths"] if p.endswith("/slices/{index}"))
    headers = api["paths"][slices]["get"]["responses"]["200"]["headers"]
    assert set(headers) == {"X-Rows", "X-Cols", "X-Spacing-Mm", "X-Z-Mm"}


def test_readiness_scores_a_study(served):
    client = served[0]
    assert client.get("/v1/ready").json() == {"status": "ok"}
    assert client.get("/v1/ready", headers={"Host": "10.0.0.7:8000"}).status_code == 200, "probes ask by address"


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/v1/screenings", Role.READ),
        ("GET", "/v1/metrics", Role.READ),
        ("POST", "/v1/screenings", Role.SUBMIT),
        ("POST", "/v1/studies:score", Role.SUBMIT),
        ("DELETE", "/v1/screenings/0123456789abcdef", Role.SUBMIT),
        ("PUT", "/v1/model", Role.ADMIN),
        ("GET", "/v1/audit", Role.ADMIN),
    ],
)
def test_each_route_asks_for_its_role(served, method, path, role):
    client = served[0]
    assert client.request(method, path).status_code == 401
    assert client.request(method, path, headers={"Authorization": "Bearer osr_guess"}).status_code == 401
    for r in Role:
        code = client.request(method, path, headers=bearer(served, r))
        lacks = list(Role).index(r) < list(Role).index(role)
        assert (code.status_code == 403) == lacks, (r, code.text)


ROUTES = [
    ("GET", "/v1/screenings", Role.READ),
    ("POST", "/v1/screenings", Role.SUBMIT),
    ("POST", "/v1/studies:score", Role.SUBMIT),
    ("PUT", "/v1/model", Role.ADMIN),
    ("GET", "/v1/audit", Role.ADMIN),
]


@pytest.mark.parametrize("prefix", ["", "/osteo", "/v1/health", "/static"])
def test_roles_are_those_of_the_route_under_any_prefix(served, prefix):
    """A service may live under a path; no prefix may turn a reader into anybody else."""
    outer = FastAPI()
    outer.mount(prefix or "/", served[0].app)
    client = TestClient(outer)
    for method, path, role in ROUTES:
        assert client.request(method, prefix + path).status_code == 401
        for r in Role:
            code = client.request(method, prefix + path, headers=bearer(served, r)).status_code
            assert (code == 403) == (list(Role).index(r) < list(Role).index(role)), (prefix, path, r, code)
    assert client.get(prefix + "/v1/health").status_code == 200


def test_every_route_states_its_role():
    guarded = [r for router in ROUTERS for r in router.routes if isinstance(r, APIRoute)]
    assert len(guarded) >= 15
    open_to_all = {r.path for r in guarded if vars(type(r))["needs"] is None}
    assert open_to_all == {"/v1/health", "/v1/ready"}


@pytest.mark.parametrize(("idle_s", "body_s", "pause_s"), [(0.05, 9.0, 0.4), (9.0, 0.2, 0.08)])
def test_a_body_that_comes_too_slowly_ends_its_request(idle_s, body_s, pause_s):
    limits = ServiceLimits(idle_s=idle_s, body_s=body_s)

    async def drip():
        await anyio.sleep(pause_s)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read():
        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        take = _bounded(Request(scope, drip), limits, upload=False)
        for _ in range(50):
            await take()

    with pytest.raises(Problem) as e:
        anyio.run(read)
    assert (e.value.status_code, e.value.code) == (408, "SLOW_BODY")


def test_streams_never_take_all_requests(tmp_path):
    for key in ("streams", "uploads"):
        with pytest.raises(ConfigError, match=r"limits\.streams"):
            check(validate(ServeConfig, {"runs": str(tmp_path), "limits": {key: 64}}))


def test_uploads_that_do_not_end_leave_room_for_others(bundle_dir, tmp_path):
    """An upload counts from its first byte on: what waits for a body takes no more requests than are allowed."""
    cfg = study_config(tmp_path, bundle_dir, names=["testserver"], limits={"uploads": 1})
    app = create(cfg, LocalScoring(cfg), QuietSupervisor(runs_of(cfg)))

    async def ask():
        begun, end = anyio.Event(), anyio.Event()

        async def slow():
            yield b"x"
            begun.set()
            await end.wait()

        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as client,
            anyio.create_task_group() as group,
        ):
            group.start_soon(partial(client.post, "/v1/studies:score", content=slow(), headers=FORM))
            await begun.wait()
            second = await client.post("/v1/studies:score", files={"study": b"x"})
            others = await client.get("/v1/screenings")
            end.set()
        return second, others

    second, others = anyio.run(ask)
    assert (second.status_code, second.json()["code"]) == (429, "BUSY")
    assert others.status_code == 200


def test_a_revoked_token_stops_and_hashes_alone_are_stored(served, tmp_path):
    file = Tokens(tmp_path / "t.json")
    secret = file.add("gone soon", Role.READ)
    holder = file.holder(secret)
    assert holder is not None
    assert holder.name == "gone soon"
    assert secret not in (tmp_path / "t.json").read_text()
    assert (tmp_path / "t.json").stat().st_mode & 0o077 == 0
    file.revoke("gone soon")
    file._read_at = 0.0
    assert file.holder(secret) is None


def test_bodies_hosts_and_origins_are_refused(served, tmp_path):
    client, _, _, _ = served
    send = bearer(served, Role.SUBMIT)
    assert client.post("/v1/screenings", headers=send, content=b"x" * 9000).json()["code"] == "TOO_LARGE"
    chunks = client.post(
        "/v1/screenings", headers=send | {"Content-Type": "application/json"}, content=(b"x" * 999 for _ in range(20))
    )
    assert chunks.status_code == 413
    assert client.get("/v1/me", headers=send | {"Host": "evil.example"}).json()["code"] == "WRONG_HOST"
    assert client.get("/v1/health", headers={"Host": "10.0.0.7:8000"}).status_code == 200, "probes ask by address"
    assert client.get("/v1/me", headers=send | {"Origin": "https://evil.example"}).json()["code"] == "CROSS_ORIGIN"
    page = client.get("/")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("0", bytes(64 << 20))
    answer = client.post("/v1/studies:score", headers=send, files={"study": bomb.read_bytes()})
    assert (answer.status_code, answer.json()["code"]) == (413, "ZIP_BOMB")
    for odd in (b"", b"PK\x03\x04 no", b"\x00" * 200):
        assert client.post("/v1/studies:score", headers=send, files={"study": odd}).json()["code"] == "NOT_A_ZIP"


def test_audit_knows_who_but_no_paths(served, cohort_run):
    client = served[0]
    send = bearer(served, Role.SUBMIT)
    client.post("/v1/screenings", headers=send, json={"archive": str(next(cohort_run.archive.iterdir()))})
    lines = client.get("/v1/audit", headers=bearer(served, Role.ADMIN)).json()["lines"]
    last = [x for x in lines if x["action"] == "submit"][-1]
    assert last["who"] == "the submit one"
    assert next(cohort_run.archive.iterdir()).name not in json.dumps(lines)


def test_swap_refuses_what_is_no_bundle(served):
    client, _, _, cfg = served
    admin = bearer(served, Role.ADMIN)
    assert client.put("/v1/model", headers=admin, json={"bundle": "/etc"}).status_code == 403
    assert client.put("/v1/model", headers=admin, json={"bundle": cfg.bundles[0]}).json()["code"] == "BAD_BUNDLE"
    assert client.put("/v1/model", headers=admin, json={"bundle": cfg.bundle}).status_code == 202


def test_schemathesis_finds_no_5xx_and_only_errors_that_are_declared(served):
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.core.result import Ok

    client, _, _, _ = served
    api = schemathesis.openapi.from_asgi("/v1/openapi.json", client.app, headers={"Host": "localhost"})
    calls = []

    @settings(max_examples=15, suppress_health_check=list(HealthCheck), derandomize=True)
    def one(case):
        answer = case.call(headers=bearer(served, Role.ADMIN) | {"Host": "localhost"})
        calls.append(answer.status_code)
        assert answer.status_code < 500, (case.method, case.path, answer.text)
        if answer.status_code >= 400:
            declared = case.operation.definition.raw["responses"][str(answer.status_code)]["content"]
            assert answer.headers["content-type"] == ["application/problem+json"]
            assert list(declared) == ["application/problem+json"], (case.method, case.path)

    for operation in api.get_all_operations():
        assert isinstance(operation, Ok)
        op = operation.ok()
        if not op.path.endswith("/events"):  # a stream ends when its screening does
            given(case=op.as_strategy())(one)()
    assert len(calls) > 150
