"""The kernel cannot describe a PF in one message (EMSGSIZE): a dump of all links may have it.

The simulated kernel is Linux 5.10, which forgets the GUIDs of VFs when it reserves space.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest

from sriov_textfile import exposition, flags
from sriov_textfile.gather import Gatherer
from sriov_textfile.host.rtnetlink import NLMSG_DONE, NLMSGHDR, decode_link
from sriov_textfile.log import Log
from sriov_textfile.simulate.host import INFINIBAND, SimulatedPf
from sriov_textfile.simulate.rtnetlink import LinkVf, encode_vf
from tests.conftest import Host, MakeHost, Run
from tests.test_doctor import findings, report

IN_ONE_MESSAGE = (4, 19, 21, 40, 48, 90, 128, 221, 222, 256)
IN_A_DUMP = (20, 44)
NOT_AT_ALL = (96, 100, 200)


def pf_with_guids(vfs: int, number: int = 0) -> SimulatedPf:
    return SimulatedPf(
        address=f"0000:{16 + 8 * number:02x}:00.0",
        netdev=f"ib{number}",
        pci_class=INFINIBAND,
        driver="mlx5_core",
        vfs=vfs,
        total_vfs=256,
        sysfs="none",
        vf_driver="vfio-pci",
        guids=True,
    )


def ethernet(vfs: int = 4) -> SimulatedPf:
    return SimulatedPf(address="0000:80:00.0", vfs=vfs, sysfs="none", vf_driver="vfio-pci")


def vfs(page: str, pf: str) -> list[int]:
    return [
        int(line.partition('vf="')[2].partition('"')[0])
        for line in page.splitlines()
        if line.startswith("sriov_vf_rx_bytes{") and f'pf="{pf}"' in line
    ]


class Process:
    """A process that collects several times."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self.host = host
        config = flags.config(flags.parse([*host.flags, *arguments])[1], host.rtnetlink)
        self.gatherer = Gatherer(config, Log())

    def collect(self) -> tuple[str, dict[str, int]]:
        """Return the next page, and the requests to the kernel by netdev; "" is a dump."""
        self.host.server.requests = {}
        page = exposition.render(self.gatherer.gather()).decode()
        return page, self.host.server.requests


def test_the_simulated_entry_with_guids_has_336_bytes() -> None:
    """As in the replies of Linux 5.10 in the lab."""
    assert len(encode_vf(LinkVf(1, guid=7))) == 336


@pytest.mark.parametrize("count", IN_ONE_MESSAGE)
def test_no_dump_is_needed_where_the_message_fits(make_host: MakeHost, count: int) -> None:
    host = make_host(pf_with_guids(count))
    assert vfs(host.collect().out, "ib0") == list(range(count))
    assert host.server.requests == {"ib0": 1}


@pytest.mark.parametrize("count", IN_A_DUMP)
def test_a_dump_has_all_vfs_of_the_pf_and_the_others_are_asked_by_name(
    make_host: MakeHost, count: int
) -> None:
    host = make_host(pf_with_guids(count), ethernet())
    run = host.collect("--collector.vfinfo")
    assert vfs(run.out, "ib0") == list(range(count))
    assert vfs(run.out, "ens1f0") == [0, 1, 2, 3]
    assert host.server.requests == {"ib0": 1, "": 1, "ens1f0": 1}
    assert run.log == ""
    assert run.out.count("sriov_vf_info{") == count + 4


def test_one_dump_serves_all_pfs(make_host: MakeHost) -> None:
    host = make_host(pf_with_guids(20), pf_with_guids(44, 1), ethernet())
    run = host.collect()
    assert vfs(run.out, "ib0") == list(range(20))
    assert vfs(run.out, "ib1") == list(range(44))
    assert host.server.requests == {"ib0": 1, "": 1, "ib1": 1, "ens1f0": 1}


def test_a_process_goes_straight_to_the_dump(make_host: MakeHost) -> None:
    process = Process(make_host(pf_with_guids(20), ethernet()))
    process.collect()
    page, requests = process.collect()
    assert vfs(page, "ib0") == list(range(20))
    assert requests == {"": 1, "ens1f0": 1}


def failures(run: Run) -> list[str]:
    return [line for line in run.log.splitlines() if "code=emsgsize" in line]


@pytest.mark.parametrize("count", NOT_AT_ALL)
def test_a_pf_that_no_dump_has_costs_only_its_own_metrics(make_host: MakeHost, count: int) -> None:
    host = make_host(pf_with_guids(count), ethernet())
    run = host.collect()
    assert run.code == 0
    assert vfs(run.out, "ib0") == []
    assert vfs(run.out, "ens1f0") == [0, 1, 2, 3]
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "0"
    (line,) = failures(run)
    assert "subject=ib0" in line
    assert "23f00807619d" in line


def test_a_process_does_not_ask_in_vain_until_the_number_of_vfs_changes(
    make_host: MakeHost,
) -> None:
    host = make_host(pf_with_guids(96), ethernet())
    process = Process(host)
    assert process.collect()[1] == {"ib0": 1, "": 1, "ens1f0": 1}
    for _ in range(2):
        page, requests = process.collect()
        assert requests == {"ens1f0": 1}
        assert vfs(page, "ib0") == []
        assert 'sriov_scrape_collector_success{collector="vfstats"} 0\n' in page
    host.set_vfs(host.pfs[0], 90)
    page, requests = process.collect()
    assert vfs(page, "ib0") == list(range(90))
    assert requests == {"ib0": 1, "ens1f0": 1}


def test_a_pf_that_ended_the_dump_may_be_one_that_the_flags_leave_out(make_host: MakeHost) -> None:
    host = make_host(pf_with_guids(96), pf_with_guids(20, 1))
    process = Process(host, "--collector.pf-exclude=^ib0$")
    assert vfs(process.collect()[0], "ib1") == []
    host.set_vfs(host.pfs[0], 4)
    assert vfs(process.collect()[0], "ib1") == list(range(20))


def test_a_pf_behind_one_that_ends_the_dump_is_missing_too(make_host: MakeHost) -> None:
    host = make_host(pf_with_guids(96), pf_with_guids(20, 1))
    run = host.collect()
    assert vfs(run.out, "ib1") == []
    assert len(failures(run)) == 2
    host.pfs.reverse()
    assert vfs(host.collect().out, "ib1") == list(range(20))


def test_a_pf_that_a_complete_dump_lacks_is_asked_again(make_host: MakeHost) -> None:
    """It may have been renamed while the kernel dumped the links."""
    host = make_host(pf_with_guids(20))
    process = Process(host)
    links = host.server.links
    host.server.links = lambda: {"ib0": links()["ib0"]} if "" not in host.server.requests else {}
    assert vfs(process.collect()[0], "ib0") == []
    host.server.links = links
    assert vfs(process.collect()[0], "ib0") == list(range(20))


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: part[:-8],
        lambda part: b"\0" * len(part),
        lambda part: part[:10],
        lambda part: struct.pack("=I", 2**31) + part[4:],
        lambda part: part[:16] + b"\xff" * (len(part) - 16),
    ],
)
def test_a_damaged_dump_is_a_failure_of_the_pfs_that_need_it(
    make_host: MakeHost, damage: object
) -> None:
    host = make_host(pf_with_guids(20), ethernet())
    dump = host.server.dump

    def damaged(request: bytes, large: bool) -> Iterator[bytes]:
        for part in dump(request, large):
            done = NLMSGHDR.unpack_from(part)[1] == NLMSG_DONE
            yield part if done else damage(part)  # type: ignore[operator]

    host.server.dump = damaged  # type: ignore[method-assign]
    run = host.collect("--timeout=1s")
    assert run.code == 0
    assert vfs(run.out, "ens1f0") == [0, 1, 2, 3]
    assert run.value("sriov_scrape_collector_success", collector="vfstats") == "0"
    assert "Traceback" not in run.log


def test_a_dump_that_hangs_is_not_repeated(make_host: MakeHost) -> None:
    host = make_host(pf_with_guids(20), pf_with_guids(44, 1), ethernet())
    dumps = []

    def hang(request: bytes, large: bool) -> Iterator[bytes]:
        dumps.append(request)
        time.sleep(5)
        yield b""

    host.server.dump = hang  # type: ignore[method-assign]
    process = Process(host, "--timeout=1s")
    for _ in range(2):
        start = time.monotonic()
        page, _ = process.collect()
        assert time.monotonic() - start < 2
        assert vfs(page, "ens1f0") == [0, 1, 2, 3]
        assert vfs(page, "ib0") == vfs(page, "ib1") == []
        assert 'sriov_scrape_collector_success{collector="vfstats"} 0\n' in page
    assert len(dumps) == 1


# --- doctor -----------------------------------------------------------------------------


def test_a_pf_that_needs_a_dump_is_a_finding(make_host: MakeHost) -> None:
    host = make_host(pf_with_guids(20), ethernet())
    (finding,) = findings(host)
    assert (finding["code"], finding["about"]) == ("emsgsize", "ib0")
    assert "23f00807619d" in finding["hint"]
    assert [pf["vf_list_dumped"] for pf in report(host)["pfs"]] == [True, False]


def test_a_pf_that_no_dump_has_is_a_finding(make_host: MakeHost) -> None:
    (finding,) = findings(make_host(pf_with_guids(96), ethernet()))
    assert (finding["code"], finding["about"]) == ("emsgsize", "ib0")
    assert "23f00807619d" in finding["hint"]


def test_the_simulated_kernel_needs_a_large_buffer_for_a_dump(make_host: MakeHost) -> None:
    """Confirms that the program has received into one before it asks."""
    host = make_host(pf_with_guids(20))
    request = struct.pack("=IHHII", 16, 18, 0x301, 1, 0)
    small, large = ([*host.server.dump(request, large=large)] for large in (False, True))
    assert [NLMSGHDR.unpack_from(part)[1] for part in small] == [16, NLMSG_DONE]
    assert struct.unpack_from("=i", small[-1], 16) == (-90,)
    assert struct.unpack_from("=i", large[-1], 16) == (0,)
    lo = NLMSGHDR.unpack_from(large[0])[0]
    assert len(decode_link(large[0][lo:]).vfs) == 20
