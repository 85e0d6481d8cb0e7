"""Flags: spelled as in Go programs; a wrong flag gets a message with a hint."""

from __future__ import annotations

import re

import pytest

from sriov_textfile import flags
from sriov_textfile.config import Config
from sriov_textfile.flags import FlagError


def value(name: str, *arguments: str) -> object:
    (flag,) = [flag for flag in flags.FLAGS if flag.name == name]
    return flags.parse(arguments)[1][flag]


def error_message(*arguments: str) -> str:
    with pytest.raises(FlagError) as error:
        flags.parse(arguments)
    return str(error.value)


# The flags of the Go exporter that this program replaces, with their defaults.
GO_EXPORTER = {
    "collector.kubepodcpu": False,
    "collector.kubepoddevice": False,
    "collector.vfstats": True,
    "collector.netlink": True,
    "collector.sysfs": True,
    "collector.vfstatspriority": ("sysfs", "netlink"),
    "path.cpucheckpoint": "/var/lib/kubelet/cpu_manager_state",
    "path.kubecgroup": "/sys/fs/cgroup/cpuset/kubepods/",
    "path.kubeletSocket": "/var/lib/kubelet/pod-resources/kubelet.sock",
    "path.nodecpuinfo": "/sys/devices/system/node/",
    "path.sysbuspci": "/sys/bus/pci/devices",
    "path.sysclassnet": "/sys/class/net/",
    "web.listen-address": ("", 9808),
    "web.rate-burst": 10,
    "web.rate-limit": 1,
}


@pytest.mark.parametrize("name", GO_EXPORTER)
def test_the_go_exporters_flags_keep_their_defaults(name: str) -> None:
    assert value(name) == GO_EXPORTER[name]


def test_flags_that_the_go_exporter_lacks_have_defaults() -> None:
    assert value("textfile.path") == ""
    assert value("interval") == 0
    assert value("timeout") == 10
    assert value("collector.pfinfo") is True
    assert value("collector.pf-include") is None
    assert value("log.level") == "info"
    assert value("log.format") == "logfmt"


@pytest.mark.parametrize("text", ["--timeout=5s", "-timeout=5s", "--TIMEOUT=5s"])
def test_flags_take_one_or_two_dashes_and_are_case_insensitive(text: str) -> None:
    assert value("timeout", text) == 5


def test_a_value_may_be_the_next_argument() -> None:
    assert value("timeout", "--timeout", "5s") == 5


@pytest.mark.parametrize("name", ["path.kubeletSocket", "path.kubeletsocket"])
def test_both_spellings_of_the_kubelet_socket_are_one_flag(name: str) -> None:
    assert value("path.kubeletSocket", f"--{name}=/run/k.sock") == "/run/k.sock"


@pytest.mark.parametrize("text", ["", "=true", "=1", "=t", "=T", "=TRUE", "=True"])
def test_every_go_spelling_of_true_is_accepted(text: str) -> None:
    assert value("collector.vfstats", "--collector.vfstats=0", f"--collector.vfstats{text}")


@pytest.mark.parametrize("text", ["=false", "=0", "=f", "=F", "=FALSE", "=False"])
def test_every_go_spelling_of_false_is_accepted(text: str) -> None:
    assert not value("collector.vfstats", f"--collector.vfstats{text}")


def test_the_no_prefix_of_node_exporter_disables_a_collector() -> None:
    assert not value("collector.vfstats", "--no-collector.vfstats")


def test_the_last_value_of_a_repeated_flag_wins() -> None:
    assert value("timeout", "--timeout=1s", "--timeout=2s") == 2


def test_commands_are_separated_from_flags() -> None:
    assert flags.parse(["collect", "--timeout", "1s", "more"])[0] == ["collect", "more"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15s", 15),
        ("1m30s", 90),
        ("1h", 3600),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("2500us", 0.0025),
        ("2500µs", 0.0025),
        ("15", 15),
        ("0.25", 0.25),
    ],
)
def test_durations_are_parsed_as_seconds(text: str, seconds: float) -> None:
    assert value("timeout", f"--timeout={text}") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "5x", "5 s", "1h-5m", "1..5s", ".s", "five", "s5", "-5s", "5sm", "1e3s", "٣s"]
)
def test_invalid_durations_are_rejected(text: str) -> None:
    expected = f"--timeout={text}: use a duration such as 15s, 1m30s or 500ms"
    assert error_message(f"--timeout={text}") == expected


@pytest.mark.parametrize("text", ["0s", "0", "25h", "1us", "99999999999999999999h"])
def test_durations_out_of_range_are_rejected(text: str) -> None:
    assert error_message(f"--timeout={text}") == f"--timeout={text}: use a duration from 1ms to 24h"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9808", ("", 9808)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:9808", ("::1", 9808)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_listen_addresses_are_parsed_as_in_go(text: str, address: tuple[str, int]) -> None:
    assert value("web.listen-address", f"--web.listen-address={text}") == address


@pytest.mark.parametrize("text", ["9808", "::1:9808", "[::1]", "host:", ":http", ":٣"])
def test_invalid_listen_addresses_are_rejected(text: str) -> None:
    assert "use HOST:PORT, :PORT or [IPV6]:PORT" in error_message(f"--web.listen-address={text}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--colector.vfstats",
            "unknown flag --colector.vfstats; did you mean --collector.vfstats?",
        ),
        ("-q", "unknown flag -q; see --help"),
        ("--no-timeout", "unknown flag --no-timeout; did you mean --timeout?"),
        ("--collector.vfstats=yes", "--collector.vfstats=yes: use true or false"),
        ("--timeout", "--timeout needs a value: --timeout=VALUE"),
        (
            "--collector.vfstatspriority=sysfs,ethtool",
            "--collector.vfstatspriority=sysfs,ethtool:"
            " use a comma-separated list of readers, such as sysfs,netlink",
        ),
        (
            "--textfile.path=/var/lib/x/sriov.txt",
            "--textfile.path=/var/lib/x/sriov.txt:"
            " use a path that ends in .prom: node_exporter ignores other files",
        ),
        ("--web.listen-address=:99999", "--web.listen-address=:99999: use a port from 0 to 65535"),
        ("--web.rate-limit=0", "--web.rate-limit=0: use a whole number from 1 to 1000000"),
        ("--web.rate-burst=-1", "--web.rate-burst=-1: use a whole number from 1 to 1000000"),
        ("--log.level=loud", "--log.level=loud: use debug, info, warn or error"),
        ("--log.format=xml", "--log.format=xml: use logfmt or json"),
    ],
)
def test_a_wrong_flag_gets_a_message_with_a_hint(argument: str, message: str) -> None:
    assert error_message(argument) == message


@pytest.mark.parametrize("text", ["(", "[a", "*", "a{99999999999}", "[[:alpha:]]"])
def test_an_invalid_regular_expression_is_rejected(text: str) -> None:
    message = error_message(f"--collector.pf-include={text}")
    assert message.startswith(
        f"--collector.pf-include={text}: use a regular expression in Python's syntax ("
    )


def test_reader_priority_keeps_the_order_and_drops_duplicates() -> None:
    name = "collector.vfstatspriority"
    assert value(name, f"--{name}=netlink, sysfs,netlink") == ("netlink", "sysfs")


@pytest.mark.parametrize(
    ("arguments", "readers"),
    [
        ([], ("sysfs", "netlink")),
        (["--collector.netlink=false"], ("sysfs",)),
        (["--collector.sysfs=false"], ("netlink",)),
        (["--collector.sysfs=false", "--collector.netlink=false"], ()),
    ],
)
def test_a_disabled_reader_is_not_in_the_priority_list(
    arguments: list[str], readers: tuple[str]
) -> None:
    assert flags.config(flags.parse(arguments)[1]).vfstats_priority == readers


def test_the_config_has_every_setting_and_is_immutable() -> None:
    config = flags.config(flags.parse([])[1])
    assert set(vars(config)) == set(Config.__annotations__)
    with pytest.raises(AttributeError, match="cannot set timeout"):
        config.timeout = 1  # type: ignore[misc]


def test_help_lists_every_flag_with_its_default() -> None:
    text = flags.usage()
    for flag in flags.FLAGS:
        assert re.search(rf"^  --{re.escape(flag.name)}\n", text, re.MULTILINE)
        if flag.default not in ("", "false"):
            assert f"(default {flag.default})" in text
