"""The attacks on the service that were tried, by group, and the tests that show what comes of each.

The list is the index of what lies in the other files: a test that is renamed or removed makes it fail, and so does a
test of one of the attack files that no group names.
"""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent

ATTACKS = {
    "paths that lead out of the archive": [
        "test_security.py::test_inside_is_allowed",
        "test_security.py::test_outside_is_refused",
        "test_security.py::test_links_in_an_archive_are_listed_but_not_read",
    ],
    "probing for what exists": ["test_security.py::test_outside_tells_nothing_of_what_exists"],
    "a path swapped after it was checked": [
        "test_runs.py::test_what_was_allowed_is_looked_at_again_when_the_work_begins",
    ],
    "addresses of other services": [
        "test_security.py::test_other_services_are_refused",
        "test_security.py::test_configured_services_are_allowed",
    ],
    "names that point at this machine": ["test_security.py::test_a_name_that_points_here_is_refused"],
    "redirects of a service": ["test_security.py::test_a_redirect_of_a_service_is_an_error"],
    "services that drip bytes, or never end": [
        "test_scoring.py::test_a_service_that_drips_bytes_keeps_nobody_else_waiting",
        "test_scoring.py::test_answers_of_a_service_are_bounded",
        "test_scoring.py::test_lists_without_an_end_end",
        "test_scoring.py::test_a_client_that_goes_away_ends_its_study",
    ],
    "studies that kill or stall their reader": [
        "test_scoring.py::test_a_killed_child_costs_no_study_and_a_deadly_study_itself",
        "test_scoring.py::test_readiness_says_why_nothing_can_be_scored",
    ],
    "zip bombs and what is no study": [
        "test_api.py::test_bodies_hosts_and_origins_are_refused",
        "test_scoring.py::test_what_is_no_study_is_refused_without_its_path",
    ],
    "bodies that are too long or too slow": [
        "test_api.py::test_uploads_that_do_not_end_leave_room_for_others",
        "test_api.py::test_bodies_hosts_and_origins_are_refused",
        "test_api.py::test_a_body_that_comes_too_slowly_ends_its_request",
    ],
    "event streams that take all requests": ["test_api.py::test_streams_never_take_all_requests"],
    "no token, a guess, a revoked one": [
        "test_api.py::test_each_route_asks_for_its_role",
        "test_api.py::test_a_revoked_token_stops_and_hashes_alone_are_stored",
    ],
    "a role beyond one's own, under any prefix": [
        "test_api.py::test_roles_are_those_of_the_route_under_any_prefix",
        "test_api.py::test_every_route_states_its_role",
    ],
    "somebody else's screening": ["test_api.py::test_a_screening_is_resumed_by_its_owner"],
    "foreign pages and host names": ["test_api.py::test_bodies_hosts_and_origins_are_refused"],
    "a bundle that is none, was changed, or is gone": [
        "test_api.py::test_swap_refuses_what_is_no_bundle",
        "test_scoring.py::test_the_configured_bundle_scores_where_the_wanted_one_is_gone_or_broken",
    ],
    "requests by a generator": ["test_api.py::test_schemathesis_finds_no_5xx_and_only_errors_that_are_declared"],
    "errors that tell too much": [
        "test_proxy.py::test_errors_become_problem_documents",
        "test_api.py::test_audit_knows_who_but_no_paths",
    ],
    "ports beyond loopback, and a Serve that listens elsewhere": [
        "test_security.py::test_it_refuses_to_start_in_public_without_tokens",
        "test_app.py::test_what_is_loopback",
        "test_app.py::test_a_service_on_loopback_listens_nowhere_else",
        "test_app.py::test_a_serve_that_others_reach_is_refused_without_tokens",
    ],
    "kills, restarts, and folders that others may read": [
        "test_app.py::test_swap_under_load_and_a_screening_that_outlives_replica_and_driver",
        "test_app.py::test_a_supervisor_gives_up_after_crashes_without_progress",
        "test_runs.py::test_restarts_and_drivers_that_got_ahead_are_no_stalls",
        "test_runs.py::test_a_torn_line_of_feedback_costs_itself_alone",
        "test_runs.py::test_a_run_s_files_are_the_owner_s_alone",
    ],
    "DICOM senders who are strangers": [
        "test_listen.py::test_who_may_not_send_is_refused",
        "test_listen.py::test_a_stranger_is_cut_off_before_its_title_is_known",
        "test_listen.py::test_silent_connections_neither_pile_up_nor_keep_others_out",
    ],
    "instances that are odd, huge or without an end": [
        "test_listen.py::test_what_can_not_be_taken_is_answered_and_leaves_nothing",
        "test_listen.py::test_an_instance_without_an_end_is_cut_off",
    ],
    "a full disk and a dead worker under live mode": [
        "test_listen.py::test_what_is_no_study_s_fault_takes_nothing_until_it_is_mended",
        "test_listen.py::test_a_dead_worker_ends_the_process_and_takes_nothing",
        "test_listen.py::test_a_restart_takes_up_what_the_killed_one_left",
        "test_listen.py::test_a_torn_line_costs_itself_alone",
    ],
    "reports that would mislead": [
        "test_listen.py::test_a_study_of_which_an_image_was_refused_has_no_report_until_that_image_comes",
        "test_listen.py::test_a_study_that_stays_incomplete_ends_without_a_report",
        "test_listen.py::test_a_later_report_names_its_predecessor_and_the_same_again_does_not",
        "test_listen.py::test_a_refusal_outlives_a_restart",
    ],
}
ALL_OF = ("test_security.py", "test_scoring.py")
"""Files that hold attacks alone."""


def names_of(file: str) -> set[str]:
    tree = ast.parse((HERE / file).read_text())
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


@pytest.mark.parametrize("group", ATTACKS)
def test_what_was_tried_is_a_test(group):
    for node in ATTACKS[group]:
        file, _, name = node.partition("::")
        assert name in names_of(file), node


@pytest.mark.parametrize("file", ALL_OF)
def test_every_attack_is_listed(file):
    listed = {n.partition("::")[2] for nodes in ATTACKS.values() for n in nodes if n.startswith(f"{file}::")}
    assert names_of(file) == listed
