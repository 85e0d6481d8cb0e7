"""The man page and the completions have every command and flag. e2e tries them in real shells."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sriov_textfile import cli, flags
from tools import completions, manpage

EPOCH = 1_790_000_000  # 2026-09-21


def test_the_man_page_has_every_command_and_flag_with_its_default() -> None:
    page = manpage.page(EPOCH).replace("\\-", "-")
    assert page.startswith('.TH SRIOV-TEXTFILE 1 "2026-09-21" ')
    for command in cli.COMMANDS:
        assert f"\n.B {command}\n" in page
    for flag in flags.FLAGS:
        entry = page.split(f"\\fB--{flag.name}\\fR", 1)[1].split(".TP")[0]
        assert flag.help[1:].replace("'", "\\(aq") in entry
        assert flag.default in entry


def test_texts_of_the_man_page_are_escaped() -> None:
    """A line that begins with a dot or a quote would be a request of groff."""
    for line in manpage.page(EPOCH).splitlines():
        assert "'" not in line
        assert not line.startswith(".") or line.split()[0] in (
            *(".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".BR", ".RS", ".RE", ".nf", ".fi"),
            *(".nh", ".ad"),
        )


@pytest.mark.parametrize(
    ("shell", "prefix"),
    [(completions.bash, "--"), (completions.zsh, "--"), (completions.fish, "-l ")],
)
def test_completions_have_every_command_flag_and_value(
    shell: Callable[[], str], prefix: str
) -> None:
    script = shell()
    for command in cli.COMMANDS:
        assert command in script
    for flag in flags.FLAGS:
        assert f"{prefix}{flag.name}" in script
        if flag.parse is not flags.boolean:
            assert " ".join(flag.values) in script
        assert (f"{prefix}no-{flag.name}" in script) is (flag.default == "true")
