"""Shows tables on a terminal, and passes on the keys; curses restores the terminal at the end."""

from __future__ import annotations

import curses
import locale
import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from sriov_textfile.problems import Problem, ProblemError
from sriov_textfile.top import screen
from sriov_textfile.top.feeds import Feed
from sriov_textfile.top.rates import Table
from sriov_textfile.top.view import View

_POLL_MILLISECONDS = 100
_ESCAPE_MILLISECONDS = 50  # for the rest of an escape sequence, as of an arrow key
_KEYS = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "pageup",
    curses.KEY_NPAGE: "pagedown",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_RESIZE: "resize",
    "\n": "enter",
    "\r": "enter",
    "\t": "tab",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\b": "backspace",
}
# Attributes, and with colours a colour in addition.
_STYLES = {
    screen.TITLE: (curses.A_REVERSE, 0),
    screen.HEAD: (curses.A_BOLD, 0),
    screen.CURSOR: (curses.A_REVERSE, 0),
    screen.DIM: (curses.A_DIM, 0),
    screen.BUSY: (curses.A_BOLD, curses.COLOR_RED),
    screen.LOST: (curses.A_BOLD, curses.COLOR_YELLOW),
    screen.PROBLEM: (curses.A_BOLD, curses.COLOR_RED),
}


class TerminalError(ProblemError):
    """Raised if the terminal cannot show the view."""


def run(feed: Feed, view: View) -> None:
    """Show the tables of a feed until the user quits. Raises TerminalError."""
    table = feed.table
    with terminal() as opened:
        while True:
            opened.show(view, table, feed.status)
            changed = False
            while not changed:
                key = opened.key()
                if key == "q" and view.typed is None:
                    return
                if key:
                    changed = True
                    if view.typed is None:
                        table = feed.press(key) or table
                    view.press(key, view.rows(table))
                message = feed.status.message
                latest = feed.poll(view.paused)
                if latest and not view.paused:
                    table, changed = latest, True
                changed |= feed.status.message != message


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Set up the terminal, and restore it at the end, whatever the reason."""
    name = os.environ.get("TERM", "")
    hint = "set TERM to the type of your terminal, or use --batch"
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error:  # LANG names a locale that is not installed.
        pass
    try:
        curses.setupterm()
    except curses.error as error:
        reason = f"cannot use a terminal of type {name!r}: {error}"
        raise TerminalError(Problem("terminal", "TERM", reason, hint)) from None
    if not curses.tigetstr("cup"):
        reason = f"a terminal of type {name!r} cannot move its cursor"
        raise TerminalError(Problem("terminal", "TERM", reason, hint))
    window = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        curses.set_escdelay(_ESCAPE_MILLISECONDS)
        window.keypad(True)
        window.timeout(_POLL_MILLISECONDS)
        yield Terminal(window)
    finally:
        window.keypad(False)
        # A terminal without a second screen keeps the view; the prompt needs an empty line.
        window.move(window.getmaxyx()[0] - 1, 0)
        window.clrtoeol()
        window.refresh()
        curses.endwin()


class Terminal:
    """A terminal while curses has it."""

    def __init__(self, window: curses.window) -> None:
        self._window = window
        self._encoding = locale.nl_langinfo(locale.CODESET)
        # The fonts of the Linux console lack some of the blocks.
        has_blocks = self._encoding.upper() == "UTF-8" and os.environ.get("TERM") != "linux"
        self._blocks = screen.BLOCKS if has_blocks else screen.ASCII
        self._attributes = {style: attribute for style, (attribute, _) in _STYLES.items()}
        if curses.has_colors() and not os.environ.get("NO_COLOR"):  # https://no-color.org
            curses.start_color()
            curses.use_default_colors()
            for style, (attribute, colour) in _STYLES.items():
                if colour:
                    curses.init_pair(colour, colour, -1)
                    self._attributes[style] = attribute | curses.color_pair(colour)
        try:
            curses.curs_set(0)
        except curses.error:  # This terminal cannot hide its cursor.
            pass

    def show(self, view: View, table: Table, status: screen.Status) -> None:
        """Draw the view; curses sends only what differs from what the terminal shows."""
        height, width = self._window.getmaxyx()
        self._window.erase()
        for y, line in enumerate(screen.draw(view, table, status, width, height, self._blocks)):
            x = 0
            for text, style in line:
                known = text.encode(self._encoding, "replace").decode(self._encoding)
                try:
                    self._window.addstr(y, x, known, self._attributes.get(style, 0))
                except curses.error:  # After the last cell of the screen, there is no next one.
                    pass
                x += len(text)
        self._window.refresh()

    def key(self) -> str:
        """Return the name of the next key, or "" if none is pressed for a moment.

        Raises SystemExit if the terminal is gone, as after a lost connection.
        """
        try:
            key = self._window.get_wch()
        except curses.error:
            try:
                termios.tcgetattr(sys.stdin.fileno())
            except termios.error:
                raise SystemExit(1) from None
            return ""
        if key == "\x0c":  # Ctrl-L, after other output has disturbed the screen
            self._window.redrawwin()
        return _KEYS.get(key) or (key if isinstance(key, str) and key.isprintable() else "other")
