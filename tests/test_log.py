"""Log: a long-running process logs a problem when it changes, not at each collection."""

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
    """The log of a process, with a clock that the test sets."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.clock = Clock()
        self.log = Log(format="json", clock=self.clock)
        self._capfd = capfd

    def after(self, *problems: Problem, complete: bool = True) -> list[tuple[str, str]]:
        """Return level and message of each line logged after a collection with these problems."""
        self.log.problems("collection", {"error": problems}, complete)
        events = [json.loads(line) for line in self._capfd.readouterr().err.splitlines()]
        return [(event["level"], event["msg"]) for event in events]


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capfd)


SOCKET = Problem("kubelet", "/k.sock", "there is no socket", "mount it")
REFUSED = Problem("kubelet", "/k.sock", "nothing listens", "start it")
PF = Problem("rtnetlink", "ens1f0", "the kernel refused", "see dmesg")


def test_a_new_problem_is_logged_with_its_hint(lines: Lines) -> None:
    assert lines.after(SOCKET) == [("error", "there is no socket; mount it")]


def test_a_lasting_problem_is_not_logged_again(lines: Lines) -> None:
    lines.after(SOCKET)
    lines.clock.now = 3599
    assert lines.after(SOCKET) == []


def test_a_lasting_problem_is_logged_once_an_hour(lines: Lines) -> None:
    lines.after(SOCKET)
    logged = []
    for collection in range(1, 4 * 240):  # every 15 seconds for four hours
        lines.clock.now = 15 * collection
        logged += lines.after(SOCKET)
    assert logged == [("error", "there is no socket; mount it")] * 3


def test_a_resolved_problem_is_logged_once(lines: Lines) -> None:
    lines.after(SOCKET, PF)
    assert lines.after(PF) == [("info", "resolved: there is no socket")]
    assert lines.after(PF) == []


def test_a_changed_problem_is_logged_but_not_as_resolved(lines: Lines) -> None:
    lines.after(SOCKET)
    assert lines.after(REFUSED) == [("error", "nothing listens; start it")]


def test_a_recurring_problem_is_logged_again(lines: Lines) -> None:
    lines.after(SOCKET)
    lines.after()
    assert lines.after(SOCKET) == [("error", "there is no socket; mount it")]


def test_a_problem_of_two_collectors_is_logged_once(lines: Lines) -> None:
    assert len(lines.after(PF, PF)) == 1
    lines.clock.now = 3600
    assert len(lines.after(PF, PF)) == 1


def test_an_incomplete_collection_does_not_resolve_a_problem(lines: Lines) -> None:
    lines.after(SOCKET, PF)
    assert lines.after(SOCKET, complete=False) == []
    assert lines.after(SOCKET, PF) == []


def test_a_source_does_not_resolve_problems_of_another(
    lines: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    lines.after(SOCKET)
    lines.log.problems("delivery", {"error": []})
    assert capfd.readouterr().err == ""


def test_code_and_subject_are_separate_fields(
    lines: Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    lines.log.problems("collection", {"warn": [PF]})
    event = json.loads(capfd.readouterr().err)
    assert (event["level"], event["code"], event["subject"]) == ("warn", "rtnetlink", "ens1f0")


def bad_counters(count: int, value: str = "x") -> list[Problem]:
    return [Problem("bad-counter", f"vf{n}", f"vf{n} is {value}") for n in range(count)]


def test_of_one_kind_at_most_20_problems_are_logged_and_the_rest_counted(lines: Lines) -> None:
    logged = lines.after(*bad_counters(512), PF)
    assert len(logged) == 22
    assert logged[-2] == ("error", "the kernel refused; see dmesg")
    assert logged[-1] == ("error", "492 more problems of this kind")
    assert lines.after(*bad_counters(512), PF) == []


def test_the_end_of_many_problems_is_bounded_too(lines: Lines) -> None:
    lines.after(*bad_counters(512))
    assert len(lines.after()) == 21


@pytest.mark.parametrize(
    "text", ["p" * 10_000, "é" * 1000, "\U0001f600" * 1000, "\x7f", "\0" * 999]
)
def test_every_json_line_is_complete_json(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    Log(format="json").problems("collection", {"warn": [Problem("unreadable", text, text)]})
    (line,) = capfd.readouterr().err.splitlines()
    event = json.loads(line)
    assert text.startswith(event["subject"])
    assert len(event["subject"]) > min(len(text) - 1, 100)
    assert event["code"] == "unreadable"
