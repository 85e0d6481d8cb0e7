"""The log of a long-running process has a line where something changes, not at each collection."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from sriov_textfile.log import Log
from sriov_textfile.problems import Problem


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Lines:
    """The log of a process whose clock the test sets."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.clock = Clock()
        self.log = Log(format="json", clock=self.clock)
        self._capfd = capfd

    def of(self, *problems: Problem, complete: bool = True) -> list[tuple[str, str]]:
        """Return level and message of each line about a round with these failures."""
        self.log.problems("collection", {"error": problems}, complete)
        events = [json.loads(line) for line in self._capfd.readouterr().err.splitlines()]
        return [(event["level"], event["msg"]) for event in events]


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capfd)


SOCKET = Problem("kubelet", "/k.sock", "there is no socket", "mount it")
REFUSED = Problem("kubelet", "/k.sock", "nothing listens", "start it")
PF = Problem("rtnetlink", "ens1f0", "the kernel refused", "see dmesg")


def test_a_problem_is_logged_when_it_appears_with_its_hint(lines: Lines) -> None:
    assert lines.of(SOCKET) == [("error", "there is no socket; mount it")]


def test_a_problem_that_lasts_is_not_logged_again(lines: Lines) -> None:
    lines.of(SOCKET)
    lines.clock.now = 3599
    assert lines.of(SOCKET) == []


def test_a_problem_that_lasts_is_logged_once_an_hour(lines: Lines) -> None:
    lines.of(SOCKET)
    logged = []
    for collection in range(1, 4 * 240):  # every 15 seconds, four hours long
        lines.clock.now = 15 * collection
        logged += lines.of(SOCKET)
    assert logged == [("error", "there is no socket; mount it")] * 3


def test_a_problem_that_is_over_is_logged(lines: Lines) -> None:
    lines.of(SOCKET, PF)
    assert lines.of(PF) == [("info", "resolved: there is no socket; mount it")]
    assert lines.of(PF) == []


def test_a_problem_that_changes_is_logged_without_being_over(lines: Lines) -> None:
    lines.of(SOCKET)
    assert lines.of(REFUSED) == [("error", "nothing listens; start it")]


def test_a_problem_that_comes_back_is_logged_again(lines: Lines) -> None:
    lines.of(SOCKET)
    lines.of()
    assert lines.of(SOCKET) == [("error", "there is no socket; mount it")]


def test_a_problem_that_two_collectors_have_is_logged_once(lines: Lines) -> None:
    assert len(lines.of(PF, PF)) == 1
    lines.clock.now = 3600
    assert len(lines.of(PF, PF)) == 1


def test_a_collection_that_was_cut_short_does_not_end_a_problem(lines: Lines) -> None:
    lines.of(SOCKET, PF)
    assert lines.of(SOCKET, complete=False) == []
    assert lines.of(SOCKET, PF) == []


def test_sources_do_not_end_each_others_problems(
    lines: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    lines.of(SOCKET)
    lines.log.problems("delivery", {"error": []})
    assert capfd.readouterr().err == ""


def test_code_and_subject_are_fields_of_their_own(
    lines: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    lines.log.problems("collection", {"warn": [PF]})
    event = json.loads(capfd.readouterr().err)
    assert (event["level"], event["code"], event["subject"]) == ("warn", "rtnetlink", "ens1f0")
