"""Exposition: Prometheus parses exactly the labels and values that were written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sriov_textfile.exposition import render
from sriov_textfile.metrics import Family, labels


def gauge(**samples: int | float) -> Family:
    family = Family("sriov_test", "gauge", "A test.")
    for name, value in samples.items():
        family.add(labels(name=name), value)
    return family


def test_a_family_is_rendered_as_help_type_and_samples_in_order() -> None:
    assert render([gauge(b=2, a=1)]) == (
        b"# HELP sriov_test A test.\n"
        b"# TYPE sriov_test gauge\n"
        b'sriov_test{name="b"} 2\n'
        b'sriov_test{name="a"} 1\n'
    )


def test_a_family_without_samples_is_not_written() -> None:
    assert render([gauge()]) == b""


def test_labels_are_sorted_by_name_as_in_go() -> None:
    assert labels(vf="1", pf="ens1f0", pciAddr="0000:11:00.1", numa_node="0") == (
        '{numa_node="0",pciAddr="0000:11:00.1",pf="ens1f0",vf="1"}'
    )


@pytest.mark.parametrize(
    "value", [0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1], ids=lambda value: f"{value:#x}"
)
def test_integers_are_written_in_full(value: int) -> None:
    assert f'sriov_test{{name="a"}} {value}\n'.encode() in render([gauge(a=value)])


@pytest.mark.parametrize("value", [0.5, 1e-9, 1e300, math.pi, 0.1 + 0.2])
def test_floats_are_parsed_back_exactly(value: float) -> None:
    (parsed,) = text_string_to_metric_families(render([gauge(a=value)]).decode())
    assert parsed.samples[0].value == value


def test_help_is_escaped() -> None:
    family = Family("sriov_test", "gauge", 'a "b" \\ and\na line')
    family.add("", 1)
    assert render([family]).startswith(b'# HELP sriov_test a "b" \\\\ and\\na line\n')


def test_a_repeated_series_keeps_its_first_value_and_is_recorded() -> None:
    family = gauge(a=1)
    family.add(labels(name="a"), 2)
    assert family.samples == {'{name="a"}': 1}
    assert family.repeated == {'{name="a"}': 1}


def test_two_families_of_one_name_are_rejected() -> None:
    with pytest.raises(ValueError, match="two families are called sriov_test"):
        render([gauge(a=1), gauge(b=2)])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_the_prometheus_parser_reads_back_any_label_value(value: str) -> None:
    family = Family("sriov_test", "gauge", "A test.")
    family.add(labels(pf=value), 1)
    (parsed,) = text_string_to_metric_families(render([family]).decode())
    assert parsed.samples[0].labels == {"pf": value}


def test_invalid_utf8_in_a_label_is_replaced() -> None:
    name = b"eth\xff0".decode("utf-8", "surrogateescape")  # as os.listdir returns it
    family = Family("sriov_test", "gauge", "A test.")
    family.add(labels(pf=name), 1)
    assert b'sriov_test{pf="eth?0"} 1\n' in render([family])
