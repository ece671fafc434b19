"""Reports say nothing about who made them."""

import json

from protoseg_deploy.diagnostics.privacy import Scrubber
from protoseg_deploy.diagnostics.surroundings import variable_finding

SCRUBBER = Scrubber(
    ["/home/ada.lovelace", "/mnt/big/ada.lovelace"], ["ada.lovelace", "root"], ["engine-7.lan", "engine-7"]
)


def test_home_folders_users_and_hosts_go():
    text = "/home/ada.lovelace/venv/lib/x.so on engine-7.lan (Engine-7), by ada.lovelace, in /data/ada.lovelace/runs"
    assert SCRUBBER.text(text) == "~/venv/lib/x.so on HOST (HOST), by USER, in /data/USER/runs"
    assert SCRUBBER.text("/mnt/big/ada.lovelace: full") == "~: full"


def test_homes_of_others_go_too():
    assert SCRUBBER.text("/home/grace/x, /Users/grace/y, C:\\Users\\grace\\z") == (
        "/home/USER/x, /Users/USER/y, C:\\Users\\USER\\z"
    )


def test_what_tells_nothing_stays():
    kept = "data.root of the root user; /home/ lies on /dev/sda; engine-70; ada.lovelaces"
    assert SCRUBBER.text(kept) == kept
    assert Scrubber(["/", ""], ["", "x"], [""]).text("/ex/x") == "/ex/x"


def test_documents_are_scrubbed_in_depth():
    document = {"a": ["/home/ada.lovelace", {"/home/ada.lovelace/k": ("engine-7", 3, None, True)}]}
    assert SCRUBBER.value(document) == {"a": ["~", {"~/k": ["HOST", 3, None, True]}]}


def test_values_of_variables_that_may_hold_secrets_are_not_shown():
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "WANDB_API_KEY": "s3cret",
        "HF_TOKEN": "s3cret",
        "MLFLOW_TRACKING_URI": "https://user:s3cret@host",
        "LD_LIBRARY_PATH": "/opt/s3cret",
    }
    finding = variable_finding(secrets | {"OMP_NUM_THREADS": "3"})
    assert "s3cret" not in json.dumps(finding.as_document("x"))
    assert "OMP_NUM_THREADS=3" in finding.fact
    assert finding.details["also_set"] == ["LD_LIBRARY_PATH", "MLFLOW_TRACKING_URI"]
    assert variable_finding({}).fact.startswith("none")
