"""The table of in-tree drivers, and the VF counters that they provide to rtnetlink.

It is from the source of Linux 6.18. Only doctor's explanations use it: such a table grows old, so
no metric depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sriov_textfile.inventory import Pf


@dataclass(frozen=True)
class Row:
    """Drivers by their names in sysfs, and the VF counters that they provide."""

    drivers: tuple[str, ...]
    counters: str
    source: str  # below drivers/ in the kernel's source: a function, or a table without one
    zeros: bool = False  # whether it has no ndo_get_vf_stats, so that the kernel reports zeros
    no_list: bool = False  # whether it has no ndo_get_vf_config, so that the kernel lists no VFs
    mode: str = ""


IPOIB = Row(
    ("mlx5_core",),
    "unicast bytes and packets, multicast",
    "`mlx5_ib_get_vf_stats()` in `infiniband/hw/mlx5/ib_virt.c`",
    mode=" in InfiniBand mode",
)
_ZEROS = "none; the kernel reports zeros"
ROWS = (
    Row(
        ("mlx5_core",),
        "all; RoCE and InfiniBand traffic included",
        "`mlx5_eswitch_get_vport_stats()` in `net/ethernet/mellanox/mlx5/core/eswitch.c`",
    ),
    IPOIB,
    Row(("ice",), "all", "`ice_get_vf_stats()` in `net/ethernet/intel/ice/ice_sriov.c`"),
    Row(
        ("i40e",),
        "all, but `tx_dropped` is the number of transmit errors; before Linux 6.17 and the stable"
        " kernels of July 2025 it is 0",
        "`i40e_get_vf_stats()` in `net/ethernet/intel/i40e/i40e_virtchnl_pf.c`",
    ),
    Row(
        ("ixgbe",),
        "bytes, packets, multicast",
        "`ixgbe_ndo_get_vf_stats()` in `net/ethernet/intel/ixgbe/ixgbe_main.c`",
    ),
    Row(
        ("ionic",),
        "all, but bytes and packets are those of unicast only",
        "`ionic_get_vf_stats()` in `net/ethernet/pensando/ionic/ionic_lif.c`",
    ),
    Row(
        ("fm10k",),
        "bytes, packets, `rx_dropped`",
        "`fm10k_ndo_get_vf_stats()` in `net/ethernet/intel/fm10k/fm10k_iov.c`",
    ),
    Row(
        ("LiquidIO",),
        "bytes, packets, broadcast, multicast",
        "`liquidio_get_vf_stats()` in `net/ethernet/cavium/liquidio/lio_main.c`",
    ),
    Row(
        ("mlx4_core",),
        "bytes, packets",
        "`mlx4_get_vf_stats()` in `net/ethernet/mellanox/mlx4/cmd.c`",
    ),
    *[
        Row((driver,), _ZEROS, f"`{table}` in `net/ethernet/{file}`", zeros=True)
        for driver, table, file in (
            ("igb", "igb_netdev_ops", "intel/igb/igb_main.c"),
            ("bnxt_en", "bnxt_netdev_ops", "broadcom/bnxt/bnxt.c"),
            ("bnx2x", "bnx2x_netdev_ops", "broadcom/bnx2x/bnx2x_main.c"),
            ("nfp", "nfp_nfd3_netdev_ops", "netronome/nfp/nfp_net_common.c"),
            ("sfc", "efx_netdev_ops", "sfc/efx.c"),
            ("qede", "qede_netdev_ops", "qlogic/qede/qede_main.c"),
            ("cxgb4", "cxgb4_mgmt_netdev_ops", "chelsio/cxgb4/cxgb4_main.c"),
            ("hns3", "hns3_nic_netdev_ops", "hisilicon/hns3/hns3_enet.c"),
            ("rvu_nicpf", "otx2_netdev_ops", "marvell/octeontx2/nic/otx2_pf.c"),
            ("be2net", "be_netdev_ops", "emulex/benet/be_main.c"),
        )
    ],
    Row(
        ("idpf", "ena", "fsl_enetc", "hinic3"),
        "none; the kernel lists no VFs",
        "no `ndo_get_vf_config` in their `net_device_ops`",
        no_list=True,
    ),
)


def row(pf: Pf) -> Row | None:
    """Return the row of a PF's driver, or None if the table does not have it."""
    if pf.driver == "mlx5_core" and pf.kind == "InfiniBand":
        return IPOIB
    for row in ROWS:
        if pf.driver in row.drivers:
            return row
    return None


def reference() -> str:
    """Return the table in Markdown, for docs/hardware.md."""
    lines = ["| driver | counters | source, below `drivers/` |\n|---|---|---|\n"]
    for row in ROWS:
        drivers = ", ".join([f"`{driver}`" for driver in row.drivers]) + row.mode
        lines.append(f"| {drivers} | {row.counters} | {row.source} |\n")
    return "".join(lines)
