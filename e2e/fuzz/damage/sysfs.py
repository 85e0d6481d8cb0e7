"""Damage to PCI devices, network devices and the files of VF counters."""

from __future__ import annotations

import os
from pathlib import Path

from e2e.fuzz.damage.files import (
    NUMBERS,
    ODD_NAMES,
    TEXTS,
    WORDS,
    add_odd_names,
    is_intact,
    named,
    replace,
)
from e2e.fuzz.machine import FuzzPf, Machine


def _stats(machine: Machine, pf: FuzzPf, vf: int) -> Path:
    return machine.host.device(pf.address) / f"sriov/{vf}/stats"


def counter_file(machine: Machine) -> str:
    """Damage the file of one counter."""
    if not (found := machine.some_vf("folder")):
        return ""
    pf, vf = found
    name = machine.random.choice(list(pf.counters(vf, 0)))
    kind = replace(machine, _stats(machine, pf, vf) / name)
    for expected in machine.of(pf, vf, "sysfs") if kind else []:
        expected.optional.add(name)
    return named("counter file", kind)


def counter_number(machine: Machine) -> str:
    """Replace a counter by another number, which the program must report."""
    if not (found := machine.some_vf("folder")):
        return ""
    pf, vf = found
    name = machine.random.choice(list(pf.counters(vf, 0)))
    path = _stats(machine, pf, vf) / name
    if not is_intact(path):
        return ""
    text, number = machine.random.choice(list(NUMBERS.items()))
    path.write_bytes(text)
    for expected in machine.of(pf, vf, "sysfs"):
        expected.values[name] = number
    return "counter file: another number"


def counter_names(machine: Machine) -> str:
    """Add counters with odd names, some of which the program may report."""
    if not (found := machine.some_vf("folder")):
        return ""
    pf, vf = found
    folder = _stats(machine, pf, vf)
    if not folder.is_dir():
        return ""
    names: list[str] = machine.random.sample(ODD_NAMES, 4)
    if machine.random.random() < 0.1:
        names += [f"queue_{number}" for number in range(300)]
    for name in names:
        if not os.path.lexists(folder / name):
            (folder / name).write_text("12\n")
            for expected in machine.of(pf, vf, "sysfs"):
                expected.values[name] = 12
                expected.optional.add(name)
    return "counter files: odd names"


def stats_lines(machine: Machine) -> str:
    """Damage a line of a file with all counters."""
    random = machine.random
    if not (found := machine.some_vf("file")):
        return ""
    pf, vf = found
    path = _stats(machine, pf, vf)
    if not is_intact(path):
        return ""
    lines = path.read_bytes().splitlines(keepends=True)
    names = [line.partition(b":")[0].strip().decode("utf-8", "replace") for line in lines]
    place = random.randrange(len(lines)) if lines else 0
    if sorted(names) != sorted(pf.counters(vf, 0)):
        return ""  # Other damage has changed them.
    name, line, number = names[place], lines[place], None
    match kind := random.choice(("a word", "without a colon", "odd name", "repeated", "cut off")):
        case "a word":
            kind, word = random.choice(list(WORDS.items()))
            line = name.encode() + b" : " + word.rstrip(b"\n") + b"\n"
        case "without a colon":
            line = line.replace(b":", b" ")
        case "odd name":
            odd = os.fsencode(random.choice([odd for odd in ODD_NAMES if "\n" not in odd]))
            line = odd + line
        case "repeated":
            number = 5
            line += name.encode() + b": 5\n"
        case "cut off":
            line = line[: line.index(b":")]
            lines[place + 1 :] = []
    lines[place] = line
    path.write_bytes(b"".join(lines))
    for expected in machine.of(pf, vf, "sysfs"):
        if number is not None:
            expected.values[name] = number  # The last one counts.
        elif kind == "cut off":
            expected.lose()
        elif kind == "odd name":
            expected.anything = True
        else:
            expected.optional.add(name)
    return f"counter line: {kind}"


def stats(machine: Machine) -> str:
    """Damage a VF's directory or file of counters, or the directory around it."""
    if not (found := machine.some_vf("folder", "file")):
        return ""
    path = _stats(machine, *found)
    texts = {kind: text for kind, text in TEXTS.items() if kind != "a colon"}  # a counter 1
    kind = replace(machine, machine.random.choice([path, path, path.parent]), texts)
    if kind:
        machine.lose_counters(found[0], "sysfs", found[1])
    for expected in machine.of(*found, "sysfs") if kind == "a directory" else []:
        expected.anything = True  # A file in it is a counter.
    return named("VF's counters", kind)


def sriov_folder(machine: Machine) -> str:
    """Damage the directory of a PF's counters, or the link to its netdev."""
    pf = machine.some_pf()
    if not pf or not pf.netdev:
        return ""
    folder = machine.host.device(pf.address) / "sriov"
    kind = replace(machine, machine.random.choice([folder, machine.host.net / pf.netdev]))
    if kind:
        machine.lose_counters(pf, "sysfs")
    return named("PF's counters", kind)


def harmless_attribute(machine: Machine) -> str:
    """Damage an attribute that is not needed to find a PF or its counters."""
    pf = machine.random.choice(machine.pfs)
    name = machine.random.choice(("numa_node", "sriov_numvfs", "driver", "net/phys_switch_id"))
    path = machine.host.device(pf.address) / name
    if name.startswith("net/"):
        path = path.parent / pf.netdev / path.name
        if not pf.netdev or path.parent.is_symlink():
            return ""
    return named(name, replace(machine, path))


def pf_attribute(machine: Machine) -> str:
    """Damage an attribute by which the program finds a PF, its VFs and its netdev."""
    if not (pf := machine.some_pf()):
        return ""
    device = machine.host.device(pf.address)
    names = ["sriov_totalvfs", "class", "net"]
    if pf.netdev:
        net = f"net/{pf.netdev}"
        names += [net, *[f"{net}/{name}" for name in ("phys_port_name", "dev_port", "ifindex")]]
    name = machine.random.choice(names)
    kind = replace(machine, device / name)
    if kind:
        machine.lose(pf)
    return named(name.replace(f"/{pf.netdev}", "/<netdev>") if pf.netdev else name, kind)


def pf_device(machine: Machine) -> str:
    """Damage a PF's entry among the PCI devices."""
    if not (pf := machine.some_pf()):
        return ""
    kind = replace(machine, machine.host.bus / pf.address)
    if kind:
        machine.lose(pf)
    return named("PF's device", kind)


def more_netdevs(machine: Machine) -> str:
    """Add netdevs with odd names to a PF."""
    if not (pf := machine.some_pf()):
        return ""
    machine.lose(pf)
    return add_odd_names(machine, machine.host.device(pf.address) / "net", "PF's netdevs")


def vf_link(machine: Machine) -> str:
    """Damage the link from a PF to a VF."""
    if not (found := machine.some_vf("folder", "file", "none")):
        return ""
    pf, vf = found
    kind = replace(machine, machine.host.device(pf.address) / f"virtfn{vf}")
    if kind:
        machine.lose(pf, vf)
    return named("virtfn", kind)


def more_vf_links(machine: Machine) -> str:
    """Add links to VFs that no reader has counters for."""
    pf = machine.random.choice(machine.pfs)
    device = machine.host.device(pf.address)
    if not device.is_dir():
        return ""
    for number in ("", "x", "-1", "99999", "9" * 240, "\u0661", "²", "00", "\udcff"):
        path = device / f"virtfn{number}"
        if not os.path.lexists(path):
            path.symlink_to(f"../{machine.random.choice(['nowhere', path.name, ODD_NAMES[3]])}")
    return "virtfn: odd numbers"


def vf_device(machine: Machine) -> str:
    """Damage what only the collector vfinfo reads of a VF."""
    if not (found := machine.some_vf("folder", "file", "none")):
        return ""
    device = machine.host.device(found[0].vf_address(found[1]))
    path = machine.random.choice([device, device / "driver", device / "net", device / "physfn"])
    return named("VF's device", replace(machine, path))


def rdma_device(machine: Machine) -> str:
    """Damage what only the collector vfrdma reads of a VF."""
    random = machine.random
    if not (found := machine.some_vf("folder", "file", "none")):
        return ""
    device = machine.host.device(found[0].vf_address(found[1])) / "infiniband"
    if not (paths := sorted(path for path in device.rglob("*") if not path.is_symlink())):
        return ""
    path = random.choice([device, *paths])
    if path.is_dir() and random.random() < 0.5:
        for name in random.sample(ODD_NAMES, 3):
            if not os.path.lexists(path / name):
                (path / name).write_text("12\n")
        return "RDMA device: odd names"
    return named("RDMA device", replace(machine, path))


def more_devices(machine: Machine) -> str:
    """Add PCI devices with odd names, one of which pretends to be a PF of the machine."""
    random, bus = machine.random, machine.host.bus
    if not (name := add_odd_names(machine, bus, "PCI devices")):
        return ""
    device = bus / random.choice(("zzzz:zz:zz.z", "0000:00:00.9", "\udcff:", "a\n"))
    if not os.path.lexists(device):
        pf = random.choice(machine.pfs)
        (device / "net" / (pf.netdev or "x")).mkdir(parents=True)
        (device / "sriov_totalvfs").write_text("8\n")
        (device / "class").write_text("0x020000\n")
        for vf in range(3):
            (device / f"virtfn{vf}").symlink_to(f"../{pf.vf_address(vf)}")
        machine.renamed = True
    return name


def more_links(machine: Machine) -> str:
    """Add network devices with odd names."""
    return add_odd_names(machine, machine.host.net, "network devices")


def missing_tree(machine: Machine) -> str:
    """Let the PCI devices, or the network devices, be missing."""
    random = machine.random
    flag = random.choice(("path.sysbuspci", "path.sysclassnet"))
    machine.paths[flag] = random.choice(("", "/dev/null", "/nowhere", "x" * 5000, "\udcff", "\n"))
    for pf in machine.pfs:
        if flag == "path.sysbuspci":
            machine.lose(pf)
        else:
            machine.lose_counters(pf, "sysfs")
    return f"{flag}: missing"
