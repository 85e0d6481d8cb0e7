"""The kinds of damage to a machine, and how often each is used.

Each damage records in the machine what the program may lack because of it. What a damage does not
touch must still be reported, and be right.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from e2e.fuzz.damage import netlink, node, program, sysfs
from e2e.fuzz.machine import Machine

# Each damage returns its name for the figures, or "" if the machine has nothing to damage.
Damage = Callable[[Machine], str]

# How often each damage is used, relative to the others.
DAMAGES: dict[Damage, int] = {
    sysfs.counter_file: 4,
    sysfs.counter_number: 1,
    sysfs.counter_names: 2,
    sysfs.stats_lines: 3,
    sysfs.stats: 2,
    sysfs.sriov_folder: 1,
    sysfs.harmless_attribute: 1,
    sysfs.pf_attribute: 2,
    sysfs.pf_device: 1,
    sysfs.more_netdevs: 1,
    sysfs.vf_link: 2,
    sysfs.more_vf_links: 1,
    sysfs.vf_device: 1,
    sysfs.rdma_device: 2,
    sysfs.more_devices: 1,
    sysfs.more_links: 1,
    netlink.reply: 10,
    node.kubelet: 4,
    node.kubelet_socket: 1,
    node.allocatable: 1,
    node.device_checkpoint: 1,
    node.cgroup: 3,
    node.more_cgroups: 1,
    node.numa_node: 2,
    node.more_numa_nodes: 1,
    node.checkpoint: 2,
    node.checkpoint_file: 1,
}
# These hide other damage or take long, so a case has at most one of them, and most have none.
RARE_DAMAGES: dict[Damage, int] = {
    program.bad_argument: 6,
    program.doctor: 6,
    program.output: 4,
    netlink.no_rtnetlink: 1,
    sysfs.missing_tree: 2,
    node.cpu_path: 3,
    node.kubelet_hangs: 2,
    netlink.no_reply: 4,
}


def inflict(machine: Machine) -> None:
    """Damage a machine: rarely not at all, mostly in several ways at once."""
    random = machine.random
    chosen = _chosen(random, DAMAGES, random.choice((0, 1, 2, 3, 4, 6, 8, 12)))
    chosen += _chosen(random, RARE_DAMAGES, int(random.random() < 0.25))
    random.shuffle(chosen)
    machine.damage = [name for damage in chosen if (name := damage(machine))]
    # Last, because other damage may be to the same files.
    for path in sorted(set(machine.unreadable), reverse=True):
        if path.exists() and not path.is_symlink():
            path.chmod(0)
            machine.unprivileged = True


def _chosen(random: Random, damages: dict[Damage, int], count: int) -> list[Damage]:
    return random.choices(list(damages), list(damages.values()), k=count)
