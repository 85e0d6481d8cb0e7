"""The text format: what is written is what Prometheus reads."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sriov_textfile.exposition import render
from sriov_textfile.metrics import Family, labels


def family(**samples: int | float) -> Family:
    made = Family("sriov_test", "gauge", "A test.")
    for name, value in samples.items():
        made.add(labels(name=name), value)
    return made


def test_a_family_is_help_type_and_samples_in_their_order() -> None:
    assert render([family(b=2, a=1)]) == (
        b"# HELP sriov_test A test.\n"
        b"# TYPE sriov_test gauge\n"
        b'sriov_test{name="b"} 2\n'
        b'sriov_test{name="a"} 1\n'
    )


def test_a_family_without_samples_is_not_written() -> None:
    assert render([family()]) == b""


def test_labels_are_in_alphabetical_order_as_go_writes_them() -> None:
    assert labels(vf="1", pf="ens1f0", pciAddr="0000:11:00.1", numa_node="0") == (
        '{numa_node="0",pciAddr="0000:11:00.1",pf="ens1f0",vf="1"}'
    )


@pytest.mark.parametrize(
    "value", [0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1], ids=lambda value: f"{value:#x}"
)
def test_integers_are_written_in_full(value: int) -> None:
    assert f'sriov_test{{name="a"}} {value}\n'.encode() in render([family(a=value)])


@pytest.mark.parametrize("value", [0.5, 1e-9, 1e300, math.pi, 0.1 + 0.2])
def test_floats_are_read_back_exactly(value: float) -> None:
    (read,) = text_string_to_metric_families(render([family(a=value)]).decode())
    assert read.samples[0].value == value


def test_help_is_escaped() -> None:
    made = Family("sriov_test", "gauge", 'a "b" \\ and\na line')
    made.add("", 1)
    assert render([made]).startswith(b'# HELP sriov_test a "b" \\\\ and\\na line\n')


def test_a_repeated_series_keeps_its_first_value_and_is_noted() -> None:
    made = family(a=1)
    made.add(labels(name="a"), 2)
    assert made.samples == {'{name="a"}': 1}
    assert made.repeated == ['{name="a"}']


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_prometheus_own_parser_reads_back_any_label_value(value: str) -> None:
    made = Family("sriov_test", "gauge", "A test.")
    made.add(labels(pf=value), 1)
    (read,) = text_string_to_metric_families(render([made]).decode())
    assert read.samples[0].labels == {"pf": value}


def test_a_name_that_is_no_utf8_does_not_spoil_the_page() -> None:
    name = b"eth\xff0".decode("utf-8", "surrogateescape")  # as os.listdir gives it
    made = Family("sriov_test", "gauge", "A test.")
    made.add(labels(pf=name), 1)
    assert b'sriov_test{pf="eth?0"} 1\n' in render([made])
