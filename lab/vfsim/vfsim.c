// SPDX-License-Identifier: GPL-2.0
/*
 * vfsim - network PFs with any number of VFs and known counters.
 *
 * Each PF is a device on this module's own bus, whose num_vf() returns the parameter `vfs`. Its
 * netdev, pf0, pf1 ..., reports VFs to rtnetlink like a NIC driver. No packets are sent: counters
 * change only through debugfs. ethtool reports a driver version, firmware version and speed;
 * devlink reports the eswitch mode: switchdev for odd PFs, legacy for even ones.
 *
 * /sys/kernel/debug/vfsim/<netdev>  one line per VF: its number, its eight counters in the order
 *                                   of the IFLA_VF_STATS_* attributes, and how often its
 *                                   configuration and its counters were queried
 * /sys/kernel/debug/vfsim/advance   write a number to add it to every counter
 *
 * Unlike the rest of the project, this file is licensed under the GNU General Public License,
 * version 2.
 */
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <net/devlink.h>

#define COUNTERS 8

static int pfs = 1;
module_param(pfs, int, 0444);
MODULE_PARM_DESC(pfs, "number of PFs");

static int vfs = 4;
module_param(vfs, int, 0444);
MODULE_PARM_DESC(vfs, "number of VFs of each PF");

struct vfsim_vf {
	u64 counters[COUNTERS];
	u32 config_queries;
	u32 stats_queries;
};

struct vfsim_pf {
	struct device dev;
	struct net_device *netdev;
	struct devlink *devlink;
	struct vfsim_vf *vf;
	int number;
};

static struct vfsim_pf **pf_list;

/* devlink releases devices asynchronously: the module must stay until the last one is gone. */
static atomic_t devices = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(released);
static struct dentry *debugfs;

static int vfsim_num_vf(struct device *dev)
{
	return vfs;
}

static const struct bus_type vfsim_bus = {
	.name = "vfsim",
	.num_vf = vfsim_num_vf,
};

static struct vfsim_vf *vfsim_vf(struct net_device *netdev, int vf)
{
	struct vfsim_pf **pf = netdev_priv(netdev);

	return vf >= 0 && vf < vfs ? &(*pf)->vf[vf] : NULL;
}

static netdev_tx_t vfsim_xmit(struct sk_buff *skb, struct net_device *netdev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static int vfsim_get_vf_config(struct net_device *netdev, int vf, struct ifla_vf_info *info)
{
	struct vfsim_vf *state = vfsim_vf(netdev, vf);

	if (!state)
		return -EINVAL;
	state->config_queries++;
	info->vf = vf;
	info->mac[0] = 0x02;
	info->mac[4] = vf >> 8;
	info->mac[5] = vf;
	info->vlan = vf % 7;
	info->qos = vf % 3;
	info->vlan_proto = htons(ETH_P_8021Q);
	info->spoofchk = vf % 2;
	info->trusted = !(vf % 2);
	info->linkstate = vf % 3;
	info->min_tx_rate = vf;
	info->max_tx_rate = 100 * vf;
	return 0;
}

static int vfsim_get_vf_stats(struct net_device *netdev, int vf, struct ifla_vf_stats *stats)
{
	struct vfsim_vf *state = vfsim_vf(netdev, vf);

	if (!state)
		return -EINVAL;
	state->stats_queries++;
	stats->rx_packets = state->counters[0];
	stats->tx_packets = state->counters[1];
	stats->rx_bytes = state->counters[2];
	stats->tx_bytes = state->counters[3];
	stats->broadcast = state->counters[4];
	stats->multicast = state->counters[5];
	stats->rx_dropped = state->counters[6];
	stats->tx_dropped = state->counters[7];
	return 0;
}

static const struct net_device_ops vfsim_ops = {
	.ndo_start_xmit = vfsim_xmit,
	.ndo_get_vf_config = vfsim_get_vf_config,
	.ndo_get_vf_stats = vfsim_get_vf_stats,
};

static void vfsim_get_drvinfo(struct net_device *netdev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, "vfsim", sizeof(info->driver));
	strscpy(info->version, "1.2.3", sizeof(info->version));
	strscpy(info->fw_version, "4.5.6", sizeof(info->fw_version));
}

static int vfsim_get_link_ksettings(struct net_device *netdev,
				    struct ethtool_link_ksettings *settings)
{
	settings->base.speed = SPEED_25000;
	settings->base.duplex = DUPLEX_FULL;
	return 0;
}

static const struct ethtool_ops vfsim_ethtool_ops = {
	.get_drvinfo = vfsim_get_drvinfo,
	.get_link_ksettings = vfsim_get_link_ksettings,
};

static int vfsim_eswitch_mode_get(struct devlink *devlink, u16 *mode)
{
	struct vfsim_pf **pf = devlink_priv(devlink);

	*mode = (*pf)->number % 2 ? DEVLINK_ESWITCH_MODE_SWITCHDEV : DEVLINK_ESWITCH_MODE_LEGACY;
	return 0;
}

static const struct devlink_ops vfsim_devlink_ops = {
	.eswitch_mode_get = vfsim_eswitch_mode_get,
};

static int vfsim_show(struct seq_file *file, void *unused)
{
	struct vfsim_pf *pf = file->private;
	int vf, i;

	rtnl_lock();
	for (vf = 0; vf < vfs; vf++) {
		seq_printf(file, "%d", vf);
		for (i = 0; i < COUNTERS; i++)
			seq_printf(file, " %llu", pf->vf[vf].counters[i]);
		seq_printf(file, " %u %u\n", pf->vf[vf].config_queries, pf->vf[vf].stats_queries);
	}
	rtnl_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vfsim);

static int vfsim_advance(void *unused, u64 by)
{
	int n, vf, i;

	rtnl_lock();
	for (n = 0; n < pfs; n++)
		for (vf = 0; vf < vfs; vf++)
			for (i = 0; i < COUNTERS; i++)
				pf_list[n]->vf[vf].counters[i] += by;
	rtnl_unlock();
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(vfsim_advance_ops, NULL, vfsim_advance, "%llu\n");

static void vfsim_setup(struct net_device *netdev)
{
	ether_setup(netdev);
	netdev->netdev_ops = &vfsim_ops;
	netdev->ethtool_ops = &vfsim_ethtool_ops;
	eth_hw_addr_random(netdev);
}

static void vfsim_release(struct device *dev)
{
	struct vfsim_pf *pf = container_of(dev, struct vfsim_pf, dev);

	kvfree(pf->vf);
	kfree(pf);
	if (atomic_dec_and_test(&devices))
		wake_up(&released);
}

static void vfsim_remove(struct vfsim_pf *pf)
{
	devlink_unregister(pf->devlink);
	unregister_netdev(pf->netdev);
	free_netdev(pf->netdev);
	devlink_free(pf->devlink);
	device_unregister(&pf->dev);
}

/* VF 1 of each PF counts above 2^63, to catch readers that treat counters as signed. */
static void vfsim_fill(struct vfsim_pf *pf, int n)
{
	int vf, i;

	for (vf = 0; vf < vfs; vf++)
		for (i = 0; i < COUNTERS; i++)
			pf->vf[vf].counters[i] = (vf == 1 ? 0xffffffff00000000ULL : 1000ULL * vf) +
						 1000000ULL * n + i + 1;
}

static struct vfsim_pf *vfsim_add(int n)
{
	struct vfsim_pf *pf = kzalloc(sizeof(*pf), GFP_KERNEL);
	int err;

	if (!pf)
		return ERR_PTR(-ENOMEM);
	pf->vf = kvcalloc(vfs, sizeof(*pf->vf), GFP_KERNEL);
	pf->netdev = alloc_netdev(sizeof(pf), "pf%d", NET_NAME_ENUM, vfsim_setup);
	if (!pf->vf || !pf->netdev) {
		err = -ENOMEM;
		goto free;
	}
	vfsim_fill(pf, n);
	pf->number = n;
	*(struct vfsim_pf **)netdev_priv(pf->netdev) = pf;
	pf->dev.bus = &vfsim_bus;
	pf->dev.release = vfsim_release;
	err = dev_set_name(&pf->dev, "0000:%02x:00.0", 16 + 8 * n);
	if (err)
		goto free;
	atomic_inc(&devices);
	err = device_register(&pf->dev);
	if (err)
		goto put;
	pf->devlink = devlink_alloc(&vfsim_devlink_ops, sizeof(pf), &pf->dev);
	if (!pf->devlink) {
		err = -ENOMEM;
		goto unregister;
	}
	*(struct vfsim_pf **)devlink_priv(pf->devlink) = pf;
	SET_NETDEV_DEV(pf->netdev, &pf->dev);
	err = register_netdev(pf->netdev);
	if (err)
		goto free_devlink;
	devlink_register(pf->devlink);
	debugfs_create_file(pf->netdev->name, 0400, debugfs, pf, &vfsim_fops);
	return pf;
free_devlink:
	devlink_free(pf->devlink);
unregister:
	free_netdev(pf->netdev);
	device_unregister(&pf->dev);
	return ERR_PTR(err);
put:
	free_netdev(pf->netdev);
	put_device(&pf->dev);
	return ERR_PTR(err);
free:
	if (pf->netdev)
		free_netdev(pf->netdev);
	kvfree(pf->vf);
	kfree(pf);
	return ERR_PTR(err);
}

static void vfsim_exit(void)
{
	int n;

	debugfs_remove_recursive(debugfs);
	for (n = 0; n < pfs && pf_list[n]; n++)
		vfsim_remove(pf_list[n]);
	wait_event(released, !atomic_read(&devices));
	kfree(pf_list);
	bus_unregister(&vfsim_bus);
}

static int __init vfsim_init(void)
{
	int n, err;

	if (pfs < 1 || vfs < 0)
		return -EINVAL;
	err = bus_register(&vfsim_bus);
	if (err)
		return err;
	pf_list = kcalloc(pfs, sizeof(*pf_list), GFP_KERNEL);
	if (!pf_list) {
		bus_unregister(&vfsim_bus);
		return -ENOMEM;
	}
	debugfs = debugfs_create_dir("vfsim", NULL);
	for (n = 0; n < pfs; n++) {
		struct vfsim_pf *pf = vfsim_add(n);

		if (IS_ERR(pf)) {
			vfsim_exit();
			return PTR_ERR(pf);
		}
		pf_list[n] = pf;
	}
	debugfs_create_file("advance", 0200, debugfs, NULL, &vfsim_advance_ops);
	return 0;
}

module_init(vfsim_init);
module_exit(vfsim_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Network PFs with any number of VFs and known counters");
