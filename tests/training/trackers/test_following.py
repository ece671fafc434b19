"""A tracker that raises or blocks is switched off with one warning; the others and the run go on."""

import threading
from pathlib import Path

import pytest

from protoseg_deploy.errors import UsageError
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.training.trackers import Limits, Outcome, RunFacts, Tracker, TrackerSet, require_trackers
from tests.training.trackers.recording import blocking, noting, raising

SHORT = Limits(start_seconds=0.3, call_seconds=0.2, finish_seconds=0.3, stop_seconds=0.1, most_waiting=5)
FACTS = RunFacts(RunFolder(Path("run")), "run", 0)
END = Outcome("finished", {"best_miou_percent": 50.0})


def follow(names, said, limits=SHORT):
    """A whole run of 40 steps."""
    trackers = TrackerSet(names, said.append, limits)
    trackers.start(FACTS)
    for step in range(1, 41):
        trackers.scalars({"train/loss": 1 / step}, step)
    trackers.finish(END)


def test_everything_arrives_in_order(known):
    good = noting()
    said = []
    follow(known(good=good), said, Limits(most_waiting=100))
    assert good.told[0] == ("start", FACTS)
    assert good.told[1:-1] == [("scalars", step, {"train/loss": 1 / step}) for step in range(1, 41)]
    assert good.told[-1] == ("finish", END)
    assert said == []


@pytest.mark.parametrize("where", ["start", "scalars", "finish"])
def test_one_that_raises(known, where):
    good, bad, said = noting(), raising(where), []
    follow(known(bad=bad, good=good), said, Limits(most_waiting=100))
    (line,) = said
    assert line.startswith("warning: train.trackers: bad is switched off: ConnectionError: no route to host; the run")
    assert "\x1b" not in line
    assert len(good.told) == 42
    assert [word for word, *_ in bad.told] == {"start": [], "scalars": ["start"]}.get(
        where, [*["start"], *["scalars"] * 40]
    )


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("start", "it has not started within 0.3 s"),
        ("scalars", "it is 5 records behind"),
        ("finish", "it has not"),
    ],
)
def test_one_that_blocks(known, release, where, why):
    """In `scalars`, 40 figures come at once and are too many; in a real run the time of the call would be."""
    said = []
    follow(
        known(bad=blocking(where, release)),
        said,
        Limits(**(vars(SHORT) | {"most_waiting": 5 if where == "scalars" else 99})),
    )
    (line,) = said
    assert f"bad is switched off: {why}" in line


def test_one_that_blocks_is_noticed_while_figures_come(known, release):
    good, said = noting(), []
    trackers = TrackerSet(known(bad=blocking("scalars", release), good=good), said.append, Limits(call_seconds=0.2))
    trackers.start(FACTS)
    step = 0
    while not said:
        step += 1
        release.wait(0.05)
        trackers.scalars({"x": 0.0}, step)
    trackers.scalars({"x": 0.0}, step + 1)
    trackers.finish(END)
    assert len(said) == 1
    assert "bad is switched off: it has not answered for 0.2 s" in said[0]
    assert len(good.told) == step + 3


def test_a_tracker_that_was_given_up_does_nothing_more_when_it_comes_back(known, release):
    bad = blocking("scalars", release)
    said = []
    trackers = TrackerSet(known(bad=bad), said.append, Limits(most_waiting=2))
    trackers.start(FACTS)
    for step in range(9):
        trackers.scalars({"x": 0.0}, step)
    assert len(said) == 1
    release.set()
    trackers.finish(END)
    assert [word for word, *_ in bad.told] == ["start"]
    assert len(said) == 1


def test_one_that_raised_may_let_go_even_if_that_raises_too(known):
    bad, said = raising("scalars"), []
    let_go = threading.Event()

    def abandon(self):
        let_go.set()
        raise OSError("again")

    bad.abandon = abandon
    follow(known(bad=bad), said, Limits(most_waiting=100))
    assert let_go.wait(10)
    assert len(said) == 1


def test_an_exit_in_a_tracker_is_an_error_like_any_other(known):
    def leave(self, values, step):
        raise SystemExit

    said = []
    follow(known(bad=type("Leaving", (noting(),), {"scalars": leave})), said, Limits(most_waiting=100))
    (line,) = said
    assert "bad is switched off: SystemExit" in line


def test_a_missing_library_is_named_with_the_command_that_installs_it(known):
    needing = type("Needing", (Tracker,), {"libraries": ("json", "no_such_library"), "extra": "mlflow"})
    with pytest.raises(
        UsageError, match=r"train\.trackers: needy needs no_such_library, which is not installed"
    ) as error:
        require_trackers(known(needy=needing))
    assert error.value.hint == "pip install 'protoseg-deploy[mlflow]'"
    require_trackers(["tensorboard", "csv"])
