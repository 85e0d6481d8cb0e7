"""top's live view: what is on the screen, and what the keys do."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sriov_textfile import deadline, flags
from sriov_textfile.problems import Problem, ProblemError
from sriov_textfile.simulate import demo
from sriov_textfile.top import batch, columns, command, screen
from sriov_textfile.top.feeds import LiveFeed, ReplayFeed
from sriov_textfile.top.machine import Machine
from sriov_textfile.top.rates import Meter, Row, Table
from sriov_textfile.top.recording import Recorder, Recording
from sriov_textfile.top.sample import Pf, Sample, Vf
from sriov_textfile.top.screen import Status
from sriov_textfile.top.view import View, _natural
from tests.conftest import MakeHost
from tests.test_top import BUSY, DOCS, node_with, take


@pytest.fixture
def busy_minute(make_host: MakeHost, tmp_path: Path) -> Table:
    """A minute of the demo's traffic, with a sample every five seconds."""
    host = make_host(*[demo.pf(number, vfs=8) for number in range(3)])
    pods = demo.pods(host.pfs)
    pods[4].containers[0].cpus = "2-3"  # of ran/du-1, on the NUMA node of another PF
    meter = Meter()
    with node_with(tmp_path, *pods) as arguments:
        for _ in range(13):
            table = meter.update(take(host, *arguments))
            host.now += 5
    return table


def table_of(**traffic: float) -> Table:
    """Return a table with a PF whose VFs belong to the named pods, with their bytes per second."""
    meter = Meter()
    for moment in (0.0, 1.0):
        vfs = [
            Vf(
                number,
                f"0000:11:00.{number}",
                "pod",
                [f"core/{pod}"],
                [],
                dict.fromkeys(("rx_bytes", "tx_bytes"), int(bytes * moment) + 1),
            )
            for number, (pod, bytes) in enumerate(traffic.items())
        ]
        pf = Pf("0000:10:00.0", "ens1f0", "ice", "0", 25_000, moment, vfs)
        table = meter.update(Sample(0.0, "node-1", True, [pf], []))
    return table


def text(lines: list[screen.Line]) -> str:
    """Return a screen as text."""
    return "".join(["".join([part for part, _ in line]).rstrip() + "\n" for line in lines])


def drawn(view: View, table: Table, width: int = 80, height: int = 24, **options: str) -> str:
    lines = screen.draw(view, table, Status(1.0), width, height, **options)
    assert len(lines) == height
    for line in lines:
        assert sum(len(part) for part, _ in line) <= width
    return text(lines)


def names(view: View, table: Table) -> list[str]:
    """Return the names of the rows in the order in which they are shown, indented by depth."""
    return ["  " * shown.depth + shown.row.name for shown in view.rows(table)]


def press(view: View, table: Table, *keys: str) -> list[str]:
    """Press keys, and return the names of the rows then."""
    for key in keys:
        view.press(key, view.rows(table))
    return names(view, table)


# --- the screen -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "by", "keys", "width", "height"),
    [
        ("pods_80x24", "pod", [], 80, 24),
        ("vfs_80x24", "vf", ["down", "down"], 80, 24),
        ("pfs_80x24", "pf", ["f"], 80, 24),
        ("pods_200x60", "pod", ["f"], 200, 60),
        ("help_80x24", "pod", ["?"], 80, 24),
        ("bytes_100x12", "pod", ["b", "z", "r"], 100, 12),
    ],
)
def test_the_screen_matches_the_golden_file(
    busy_minute: Table,
    golden: Callable[[str, str], None],
    name: str,
    by: str,
    keys: list[str],
    width: int,
    height: int,
) -> None:
    view = View(by)
    press(view, busy_minute, *keys)
    golden(f"top_{name}.txt", drawn(view, busy_minute, width, height))


def test_the_documentation_shows_the_screen(
    busy_minute: Table, request: pytest.FixtureRequest
) -> None:
    wide = View("pod")
    press(wide, busy_minute, "enter")
    page = DOCS.read_text()
    for marker, shown in (
        ("screen", drawn(View("pod"), busy_minute)),
        ("wide screen", drawn(wide, busy_minute, 150, 24)),
        ("lines", batch.as_text(busy_minute, "pod")),
    ):
        before, rest = page.split(f"<!-- {marker} -->\n")
        _, after = rest.split(f"<!-- end of {marker} -->\n")
        block = f"<!-- {marker} -->\n```text\n{shown.rstrip()}\n```\n<!-- end of {marker} -->\n"
        page = before + block + after
    if request.config.getoption("--update-golden"):
        DOCS.write_text(page)
    assert page == DOCS.read_text()


def test_no_line_of_the_help_is_cut_off_at_80x24(busy_minute: Table) -> None:
    status = Status(1.0, replay="2 of 3")
    lines = [
        "".join([text for text, _ in line])
        for line in screen.draw(View("pod", help=True), busy_minute, status, 200, 24)
    ]
    assert max(map(len, lines[1:-1])) <= 80
    assert lines[-2].startswith("         (netns): ")


@pytest.mark.parametrize(("width", "height"), [(40, 12), (79, 24), (80, 22)])
def test_help_that_is_cut_off_says_so(busy_minute: Table, width: int, height: int) -> None:
    lines = drawn(View("pod", help=True), busy_minute, width, height).splitlines()
    assert lines[-1] == "the help is cut off: it needs 80x23"[:width]
    assert "cut off" not in drawn(View("pod", help=True), busy_minute, 80, 23)


def test_before_the_second_sample_it_is_measuring() -> None:
    meter = Meter()
    for moment in (0.0, 1.0):
        vf = Vf(0, "0000:11:00.0", "free", [], [], {"rx_bytes": 1, "tx_bytes": 1})
        pf = Pf("0000:10:00.0", "ens1f0", "ice", "0", 25_000, moment, [vf])
        table = meter.update(Sample(0.0, "node-1", True, [pf], []))
        assert ("measuring" in drawn(View("pod"), table)) == (moment == 0)
        assert ("(free)" in drawn(View("pod"), table)) == (moment == 1)


def test_the_title_gives_up_the_hosts_name_first(busy_minute: Table) -> None:
    busy_minute.sample.host = "worker-17.rack-4.example.org"
    view = View("pod", paused=True, sort="rx packets")
    status = Status(1.0, replay="3000 of 3600")
    title, *_ = text(screen.draw(view, busy_minute, status, 80, 24)).splitlines()
    assert title == (
        "worke~rg  2026-11-27 12:01:00 UTC  PAUSED  every 1 s  pods sorted by RX packet/s"
    )


def test_a_replay_shows_its_position_and_its_keys(busy_minute: Table) -> None:
    status = Status(1.0, replay="3600 of 3600, end")
    keys = text(screen.draw(View("pod"), busy_minute, status, 80, 24)).splitlines()[-1]
    assert keys.startswith("replay 3600 of 3600, end  , . sample  [ ] minute  q quit  ? help  ")
    assert len(keys) <= 80


def test_a_narrow_screen_counts_the_pfs_of_a_pod(busy_minute: Table) -> None:
    assert re.search(r"\(host\) +2 PFs ", drawn(View("pod"), busy_minute))
    assert re.search(r"\(host\) +ens2f0np0,ens3f2 ", drawn(View("pod"), busy_minute, 150))


def test_a_pod_below_a_vf_has_no_numbers(busy_minute: Table) -> None:
    """Its traffic includes that of its other VFs."""
    view = View("pf")
    press(view, busy_minute, "f", "f")
    lines = drawn(view, busy_minute, 150, 40).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  - VF 2"))
    assert " 15.7G " in lines[at]
    assert lines[at + 1].strip() == "ran/du-1, with VFs of ens2f0np0"


def test_help_stays_while_the_terminal_is_resized(busy_minute: Table) -> None:
    view = View("pod")
    press(view, busy_minute, "?", "resize")
    assert view.help
    press(view, busy_minute, "x")
    assert not view.help


def test_a_narrow_screen_shows_names_and_the_most_important_columns(busy_minute: Table) -> None:
    lines = drawn(View("pod"), busy_minute, 50, 12).splitlines()
    assert lines[2].split() == ["POD", "PF", "RX", "TX", "DROP", "LINK"]
    assert lines[3].startswith("+ ran/du-1")


def test_problems_take_turns(busy_minute: Table) -> None:
    problems = [Problem("rtnetlink", name, f"problem of {name}") for name in ("a", "b")]
    busy_minute.sample.problems = problems
    shown = []
    for seconds in (100, 104, 105, 109, 110):
        busy_minute.read_at = seconds
        shown += re.findall(
            r"problem of (.) \((.) of 2 problems\)", drawn(View("pod"), busy_minute)
        )
    assert shown == [("a", "1"), ("a", "1"), ("b", "2"), ("b", "2"), ("a", "1")]


def test_any_size_of_the_terminal_is_filled_and_not_exceeded(busy_minute: Table) -> None:
    for by in ("pod", "vf", "pf"):
        for keys in ([], ["end"], ["f", "f"], ["/"], ["?"]):
            view = View(by)
            press(view, busy_minute, *keys)
            for width in (1, 10, 40, 80, 109, 110, 132, 300):
                for height in (1, 2, 5, 15, 16, 24, 100):
                    drawn(view, busy_minute, width, height)


def test_all_columns_fit_into_80() -> None:
    (_, head, *_) = drawn(View("vf"), table_of(a=1e9), 80, 12).splitlines()[1:]
    assert head.split() == [
        *("PF", "VF", "USED", "BY"),
        *("RX", "TX", "RX", "TX", "DROP", "ERR", "LINK", "NUMA"),
    ]


def test_only_the_rows_on_the_screen_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(**{f"pod{number}": 1e6 * number for number in range(1024)})
    lines = []
    line = screen._Layout.line
    monkeypatch.setattr(
        screen._Layout,
        "line",
        lambda self, shown, now: lines.append(shown) or line(self, shown, now),  # type: ignore[func-returns-value]
    )
    out = drawn(View("vf"), table)
    assert "core/pod1023" in out
    assert 10 <= len(lines) <= 24


def styles(table: Table, style: str, by: str = "pod") -> list[str]:
    """Return the texts that have a style."""
    lines = screen.draw(View(by), table, Status(1.0), 80, 24)
    return [part.strip() for line in lines for part, own in line if own == style]


def test_more_than_80_percent_of_a_link_is_marked() -> None:
    assert "81%!" in styles(table_of(a=0.81 * 25e9 / 8), screen.BUSY)
    assert styles(table_of(a=0.79 * 25e9 / 8), screen.BUSY) == []


def test_drops_and_cpus_on_another_numa_node_are_marked(busy_minute: Table) -> None:
    marked = styles(busy_minute, screen.LOST)
    assert "1!=0" in marked
    assert any(part.startswith("dropped ") for part in marked)


def test_without_blocks_the_traffic_of_the_last_minute_is_ascii(busy_minute: Table) -> None:
    assert any(block in drawn(View("pod"), busy_minute, 150) for block in screen.BLOCKS)
    assert drawn(View("pod"), busy_minute, 150, blocks=screen.ASCII).isascii()


def test_names_from_the_machine_cannot_control_the_terminal() -> None:
    table = table_of(**{"\x1b[2J\udc80": 1e6})
    for by in ("pod", "vf", "pf"):
        view = View(by)
        press(view, table, "f", "f")
        out = drawn(view, table)
        assert "\x1b" not in out
        out.encode()
    assert "\x1b" not in batch.as_text(table, "pod")


def test_a_problem_is_on_the_screen(busy_minute: Table) -> None:
    busy_minute.sample.problems = [Problem("kubelet", "", "no kubelet", "start it")] * 3
    assert "no kubelet; start it (1 of 3 problems)\n" in drawn(View("pod"), busy_minute)
    lines = screen.draw(View("pod"), busy_minute, Status(1.0, message="top hangs"), 80, 24)
    assert "top hangs" in text(lines)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.004, "0.00"),
        (0.04, "0.04"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (99.96, "100"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (43_210_000_000.0, "43.2G"),
        (2.0**64 * 8, "148E"),
        (1e30, "999E"),
    ],
)
def test_numbers_have_at_most_five_characters(value: float | None, shown: str) -> None:
    assert columns.number(value) == shown
    assert len(shown) <= 5


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0%"), (0.0004, "0.0%"), (0.0994, "9.9%"), (0.0996, "10%"), (1.2, "120%!")],
)
def test_shares_of_a_link(share: float, shown: str) -> None:
    assert columns.percent(share) == shown


def test_a_python_without_curses_gets_a_message(
    monkeypatch: pytest.MonkeyPatch, recording: Recording
) -> None:
    monkeypatch.setitem(sys.modules, "_curses", None)
    for name in ("curses", "sriov_textfile.top.live"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    options = command.Options(False, False, 0, "", "", "")
    feed = ReplayFeed(recording, 1.0)
    with pytest.raises(ProblemError, match=r"needs Python's module curses: .*; use --batch"):
        command._show(feed, options, feed.table.sample)


# --- keys -------------------------------------------------------------------------------


def test_rows_can_be_sorted_by_any_column() -> None:
    def row(name: str, *rates: float | None, share: float | None = None) -> Row:
        return Row(
            "pod", name, name, [name], [], [], [*rates, *[None] * (8 - len(rates))], share=share
        )

    table = table_of(a=1.0)
    table.pods = [
        row("x2", 5.0, 1.0, 10.0, 3.0, 0.0, share=0.1),
        row("x10", 1.0, 9.0, None, 2.0, 7.0, share=0.9),
        row("y", 2.0, 2.0, 30.0, 1.0, None),
    ]
    view = View("pod")
    assert names(view, table) == ["x10", "x2", "y"]  # traffic: 10, 6, 4
    orders = {}
    for _ in range(13):
        press(view, table, ">")
        orders[view.sort] = names(view, table)
    assert orders["name"] == ["x2", "x10", "y"]  # not x10 before x2
    assert orders["second"] == ["x2", "x10", "y"]
    assert orders["rx"] == ["x2", "y", "x10"]
    assert orders["tx"] == ["x10", "y", "x2"]
    assert orders["rx packets"] == ["y", "x2", "x10"]  # unknown ones last
    assert orders["tx packets"] == ["x2", "x10", "y"]
    assert orders["drops"] == ["x10", "x2", "y"]
    assert orders["link"] == ["x10", "x2", "y"]
    assert {"rx drops", "tx drops", "errors", "numa"} < set(orders)
    assert view.sort == "traffic"
    press(view, table, *["<"] * 8, "r")
    assert (view.sort, names(view, table)) == ("rx packets", ["x2", "y", "x10"])


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ("upf", ["core/upf-1", "core/upf-0", "core/upf-2"]),
        ("RAN/", ["ran/du-1", "ran/du-0", "ran/du-2"]),
        ("ens1f0", ["ran/du-0", "edge/router-0", "core/upf-0", "(vfio)"]),
        ("0000:19:00.4", ["edge/router-1"]),
        ("host", ["(host)"]),
        ("nothing", []),
    ],
)
def test_a_filter_finds_pods_namespaces_pfs_and_addresses(
    busy_minute: Table, filter: str, found: list[str]
) -> None:
    view = View("pod")
    shown = press(view, busy_minute, "/", *filter, "enter")
    assert sorted(shown) == sorted(found)
    assert f"with {filter}" in drawn(view, busy_minute).splitlines()[0]
    assert len(press(view, busy_minute, "escape")) == 11


def test_a_filter_is_typed_corrected_and_given_up(busy_minute: Table) -> None:
    view = View("pod")
    press(view, busy_minute, "/", "d", "x", "backspace", "u", "q")
    assert drawn(view, busy_minute).splitlines()[-1] == "show only rows with: duq_"
    press(view, busy_minute, "backspace", "enter")
    assert view.filter == "du"
    press(view, busy_minute, "/", "x", "escape")
    assert (view.filter, view.typed) == ("du", None)


def test_rows_without_traffic_can_be_hidden(busy_minute: Table) -> None:
    view = View("vf")
    assert len(names(view, busy_minute)) == 24
    shown = press(view, busy_minute, "z")
    assert "ens1f0 6" not in shown  # idle
    assert "ens1f0 5" in shown
    assert "ens3f2 0" in shown  # unknown


def test_rows_can_be_pods_vfs_or_pfs(busy_minute: Table) -> None:
    view = View("pod")
    assert press(view, busy_minute, "v")[0].startswith("ens2f0np0 ")
    assert press(view, busy_minute, "n")[0] == "ens2f0np0"
    assert press(view, busy_minute, "tab")[0] == "ran/du-1"
    assert press(view, busy_minute, "n", "p")[0] == "ran/du-1"


def test_pfs_are_unfolded_to_their_vfs_and_these_to_their_pods() -> None:
    table = table_of(a=1.0, b=9.0)
    view = View("pf")
    assert names(view, table) == ["ens1f0"]
    assert press(view, table, "right") == ["ens1f0", "  ens1f0 1", "  ens1f0 0"]
    assert press(view, table, "down", "enter") == [
        "ens1f0",
        "  ens1f0 1",
        "    core/b",
        "  ens1f0 0",
    ]
    press(view, table, "down")
    assert press(view, table, "left", "left") == ["ens1f0", "  ens1f0 1", "  ens1f0 0"]
    assert press(view, table, "left", "left") == ["ens1f0"]


def test_all_rows_are_unfolded_and_folded_at_once() -> None:
    table = table_of(a=1.0, b=9.0)
    view = View("pf")
    assert [len(press(view, table, "f")) for _ in range(3)] == [3, 5, 1]
    view = View("pod")
    assert [len(press(view, table, "f")) for _ in range(2)] == [4, 2]
    press(view, table, "f")
    assert press(view, table, "enter") == ["core/b", "core/a", "  ens1f0 0"]


def test_rows_stay_unfolded_while_others_are_shown() -> None:
    table = table_of(a=1.0, b=9.0)
    view = View("pod")
    unfolded = press(view, table, "f")
    assert len(unfolded) == 4
    assert press(view, table, "n") == ["ens1f0"]
    assert press(view, table, "p") == unfolded
    folded = press(view, table, "enter")
    assert len(folded) == 3
    assert press(view, table, "v", "p") == folded


def test_a_vf_with_several_pods_is_passed_by_the_cursor() -> None:
    table = table_of(a=1.0, b=2.0, c=3.0)
    for row in table.vfs:  # Each pod is below each VF.
        row.children = table.pods
    view = View("pf", levels={"pf": 2})
    press(view, table, *["down"] * 20)
    assert view.cursor == view.rows(table)[-1].id
    press(view, table, *["up"] * 20)
    assert view.cursor == ()


def test_the_cursor_stays_on_its_row_and_the_screen_follows_it() -> None:
    table = table_of(**{f"pod{number}": 1000.0 * number for number in range(1, 100)})
    view = View("pod")
    assert "core/pod99 " in drawn(view, table)
    press(view, table, "pagedown", "pagedown", "down")
    at = view.index(view.rows(table))
    assert at == 2 * view.height + 1
    name = view.rows(table)[at].row.name
    assert name in drawn(view, table)
    press(view, table, "r")
    assert name in drawn(view, table)
    press(view, table, "home")
    assert "core/pod1 " in drawn(view, table)
    press(view, table, "end")
    assert "core/pod99 " in drawn(view, table)


def test_the_cursor_of_a_row_that_has_gone_is_at_the_top() -> None:
    view = View("pod")
    press(view, table_of(a=1.0, b=2.0), "down")
    drawn(view, table_of(b=2.0, c=3.0))
    assert view.index(view.rows(table_of(b=2.0, c=3.0))) == 0


def test_keys_without_a_meaning_and_an_empty_table_do_no_harm(busy_minute: Table) -> None:
    empty = Meter().update(Sample(0.0, "node-1", False, [], []))
    for by in ("pod", "vf", "pf"):
        for key in ("up", "end", "right", "left", "enter", "f", "other", "é", "\x00", "r", "z"):
            view = View(by)
            press(view, empty, key)
            drawn(view, empty)
            press(view, busy_minute, key)
            drawn(view, busy_minute)


# --- recording --------------------------------------------------------------------------


def test_the_title_has_rec_while_samples_are_recorded(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(BUSY)
    machine = Machine(flags.config(flags.parse(host.flags)[1], host.rtnetlink), "node-1")
    path = str(tmp_path / "recording")
    Recorder(machine, path)
    recorder = Recorder(machine, path)
    feed = LiveFeed(recorder, 0.0, recorder.sample())

    def shown() -> str:
        return text(screen.draw(View("vf"), feed.table, feed.status, 80, 24))

    def sample() -> None:
        while not feed.poll(paused=False):
            time.sleep(0.01)

    assert "  REC  " in shown()
    assert "appending to the recording /" in shown()
    sample()
    assert "  REC  " in shown()
    assert "appending" not in shown()
    recorder.failure = Problem("undelivered", path, "the disk is full")
    sample()
    assert "  REC  " not in shown()


class SlowMachine(Machine):
    """A machine whose samples take a while."""

    taken = 0

    def sample(self) -> Sample:
        self.taken += 1
        time.sleep(0.2)
        return super().sample()


def test_keys_do_not_hasten_samples_that_take_long(make_host: MakeHost) -> None:
    """At least as much time passes between two samples as the last one took."""
    host = make_host(BUSY)
    machine = SlowMachine(flags.config(flags.parse(host.flags)[1], host.rtnetlink), "node-1")
    feed = LiveFeed(machine, 0.01, machine.sample())
    while not feed.poll(paused=False):
        time.sleep(0.001)
    ended = time.monotonic()
    while machine.taken == 2:
        feed.press("down")
        feed.poll(paused=False)
        time.sleep(0.001)
    assert time.monotonic() - ended > 0.15


def test_a_lack_of_threads_is_shown_and_the_next_sample_is_taken(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*unused: object) -> None:
        raise RuntimeError("can't start new thread")  # as _thread does

    host = make_host(BUSY)
    machine = Machine(flags.config(flags.parse(host.flags)[1], host.rtnetlink), "node-1")
    feed = LiveFeed(machine, 0.01, machine.sample())
    with monkeypatch.context() as patched:
        patched.setattr(deadline, "start_new_thread", refuse)
        patched.setattr(deadline, "_idle", [])
        while not feed.status.message:
            assert feed.poll(paused=False) is None
    assert "TasksMax=" in feed.status.message
    assert not feed.is_complete
    while not feed.poll(paused=False):
        time.sleep(0.001)
    assert feed.status.message == ""


@pytest.mark.parametrize("interval", [1, 10, 30, 60])
def test_each_problem_has_its_turn(interval: int) -> None:
    table = table_of(a=1)
    table.sample.problems = [Problem("x", "", "the first"), Problem("x", "", "the second")]
    shown = []
    for _ in range(12):
        table.read_at += interval
        shown.append(text(screen.draw(View("pod"), table, Status(interval), 80, 24)))
    assert any("the first" in each for each in shown)
    assert any("the second" in each for each in shown)


def test_names_of_any_length_can_be_sorted() -> None:
    names = ["vf 10", "vf 2", f"vf {'9' * 5000}", "vf 1"]
    assert sorted(names, key=_natural) == ["vf 1", "vf 2", "vf 10", f"vf {'9' * 5000}"]


# --- replay -----------------------------------------------------------------------------


@pytest.fixture
def recording(make_host: MakeHost, tmp_path: Path) -> Recording:
    """A recording of three minutes, with a sample each second."""
    from sriov_textfile.top import sample

    host = make_host(replace(BUSY, vfs=1))
    path = tmp_path / "recording"
    lines = ['{"recording":1,"version":"0","continued":false}']
    for second in range(181):
        host.now = second
        lines.append(sample.encode(take(host)))
    path.write_text("\n".join(lines) + "\n")
    return Recording(str(path))


def at(table: Table | None) -> float:
    """Return the second of a table."""
    assert table
    return table.read_at


def test_a_replay_goes_on_and_back_by_samples_and_minutes(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = ReplayFeed(recording, 1.0)
    assert at(feed.table) == 0
    assert feed.poll(paused=False) is None  # It is not yet time.
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.0)
    assert feed.poll(paused=True) is None
    assert at(feed.poll(paused=False)) == 1
    assert [at(feed.press(key)) for key in "..]],[["] == [2, 3, 63, 123, 122, 62, 2]
    assert [at(feed.press(key)) for key in "]]]].["] == [62, 122, 180, 180, 180, 120]
    assert at(feed.press("[")) == 60
    assert feed.press("x") is None
    assert feed.status.replay == "61 of 181"
    assert at(feed.press("]")) == 120
    assert at(feed.press("]")) == 180
    assert feed.status.replay == "181 of 181, end"


def test_after_a_jump_the_rates_and_the_last_minute_are_known(recording: Recording) -> None:
    table = ReplayFeed(recording, 1.0).press("]")
    assert table
    (vf,) = table.vfs
    assert vf.rates[0] == 9e6
    assert len(vf.history) == 60


def test_the_pace_of_a_replay_can_be_changed(recording: Recording) -> None:
    feed = ReplayFeed(recording, 1.0)
    for key in "+++":
        feed.press(key)
    assert feed.status.interval == 10.0
    for key in "-" * 9:
        feed.press(key)
    assert feed.status.interval == 0.2
