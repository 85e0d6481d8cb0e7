// SPDX-License-Identifier: GPL-2.0
/*
 * vfsim - network PFs with any number of VFs and known counters.
 *
 * Each PF is a device on this module's own bus. The parameter `vfs` has the number of VFs of each:
 * vfs=20,4 creates two PFs. Their netdevs, pf0, pf1 ..., report VFs to rtnetlink like a NIC driver.
 * The parameter `kind` has the kind of each PF:
 *
 * ethernet    the default
 * infiniband  with hardware addresses of 20 bytes, and with GUIDs, as IPoIB on mlx5
 * no-list     has VFs, but does not describe them, as idpf and ena
 *
 * No packets are sent: counters change only through debugfs. ethtool reports a driver version,
 * firmware version and speed; devlink reports the eswitch mode: switchdev for odd PFs, legacy for
 * even ones.
 *
 * /sys/kernel/debug/vfsim/<netdev>  one line per VF: its number, its eight counters in the order
 *                                   of the IFLA_VF_STATS_* attributes, and how often its
 *                                   configuration and its counters were queried
 * /sys/kernel/debug/vfsim/advance   write a number to add it to every counter
 * /sys/kernel/debug/vfsim/set       write a number to set every counter to it
 * /sys/kernel/debug/vfsim/busy      write a number: so many queries of each VF's counters will fail
 *                                   with EBUSY, as in a reset of the NIC
 * /sys/kernel/debug/vfsim/vfs       write how many of its VFs each PF has from now on
 * /sys/kernel/debug/vfsim/delay     write how many microseconds a query of a VF's configuration
 *                                   takes from now on, as if the driver asked its firmware
 *
 * Unlike the rest of the project, this file is licensed under the GNU General Public License,
 * version 2.
 */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/if_arp.h>
#include <linux/if_infiniband.h>
#include <linux/if_link.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/wait.h>
#include <net/devlink.h>

#define COUNTERS 8
#define MAX_PFS 16

static int vfs[MAX_PFS];
static int pfs;
module_param_array(vfs, int, &pfs, 0444);
MODULE_PARM_DESC(vfs, "number of VFs of each PF");

static char *kind[MAX_PFS];
module_param_array(kind, charp, NULL, 0444);
MODULE_PARM_DESC(kind, "kind of each PF: ethernet, infiniband or no-list");

static u32 delay; /* of a query of a VF's configuration, in microseconds */

struct vfsim_vf {
	u64 counters[COUNTERS];
	u64 busy; /* how many queries of the counters will still fail */
	u32 config_queries;
	u32 stats_queries;
};

struct vfsim_pf {
	struct device dev;
	struct net_device *netdev;
	struct devlink *devlink;
	struct vfsim_vf *vf;
	int number;
	int vfs; /* now */
	int max_vfs;
};

static struct vfsim_pf **pf_list;

/* devlink releases devices asynchronously: the module must stay until the last one is gone. */
static atomic_t devices = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(released);
static struct dentry *debugfs;

static int vfsim_num_vf(struct device *dev)
{
	return container_of(dev, struct vfsim_pf, dev)->vfs;
}

static struct bus_type vfsim_bus = {
	.name = "vfsim",
	.num_vf = vfsim_num_vf,
};

static struct vfsim_vf *vfsim_vf(struct net_device *netdev, int vf)
{
	struct vfsim_pf **pf = netdev_priv(netdev);

	return vf >= 0 && vf < (*pf)->vfs ? &(*pf)->vf[vf] : NULL;
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
	if (delay)
		usleep_range(delay, delay + 1);
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
	if (state->busy) {
		state->busy--;
		return -EBUSY;
	}
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

static int vfsim_get_vf_guid(struct net_device *netdev, int vf, struct ifla_vf_guid *node,
			     struct ifla_vf_guid *port)
{
	node->vf = port->vf = vf;
	node->guid = port->guid = 0x0200000000000000ULL + vf;
	return 0;
}

static const struct net_device_ops vfsim_ethernet_ops = {
	.ndo_start_xmit = vfsim_xmit,
	.ndo_get_vf_config = vfsim_get_vf_config,
	.ndo_get_vf_stats = vfsim_get_vf_stats,
};

static const struct net_device_ops vfsim_infiniband_ops = {
	.ndo_start_xmit = vfsim_xmit,
	.ndo_get_vf_config = vfsim_get_vf_config,
	.ndo_get_vf_stats = vfsim_get_vf_stats,
	.ndo_get_vf_guid = vfsim_get_vf_guid,
};

static const struct net_device_ops vfsim_no_list_ops = {
	.ndo_start_xmit = vfsim_xmit,
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

static struct devlink *vfsim_devlink_alloc(struct device *dev)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 15, 0)
	return devlink_alloc(&vfsim_devlink_ops, sizeof(struct vfsim_pf *));
#else
	return devlink_alloc(&vfsim_devlink_ops, sizeof(struct vfsim_pf *), dev);
#endif
}

static void vfsim_devlink_register(struct devlink *devlink, struct device *dev)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 15, 0)
	devlink_register(devlink, dev);
#else
	devlink_register(devlink);
#endif
}

static int vfsim_show(struct seq_file *file, void *unused)
{
	struct vfsim_pf *pf = file->private;
	int vf, i;

	rtnl_lock();
	for (vf = 0; vf < pf->vfs; vf++) {
		seq_printf(file, "%d", vf);
		for (i = 0; i < COUNTERS; i++)
			seq_printf(file, " %llu", pf->vf[vf].counters[i]);
		seq_printf(file, " %u %u\n", pf->vf[vf].config_queries, pf->vf[vf].stats_queries);
	}
	rtnl_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vfsim);

static void vfsim_advance(struct vfsim_vf *vf, u64 by)
{
	int i;

	for (i = 0; i < COUNTERS; i++)
		vf->counters[i] += by;
}

static void vfsim_set(struct vfsim_vf *vf, u64 to)
{
	int i;

	for (i = 0; i < COUNTERS; i++)
		vf->counters[i] = to;
}

static void vfsim_busy(struct vfsim_vf *vf, u64 queries)
{
	vf->busy = queries;
}

/* Change every VF of every PF. The file's private data is the function that changes one VF. */
static int vfsim_change(void *change, u64 value)
{
	void (*change_vf)(struct vfsim_vf *vf, u64 value) = change;
	int n, vf;

	rtnl_lock();
	for (n = 0; n < pfs; n++)
		for (vf = 0; vf < pf_list[n]->max_vfs; vf++)
			change_vf(&pf_list[n]->vf[vf], value);
	rtnl_unlock();
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(vfsim_change_ops, NULL, vfsim_change, "%llu\n");

static int vfsim_set_vfs(void *unused, u64 number)
{
	int n;

	rtnl_lock();
	for (n = 0; n < pfs; n++)
		pf_list[n]->vfs = min_t(u64, number, pf_list[n]->max_vfs);
	rtnl_unlock();
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(vfsim_set_vfs_ops, NULL, vfsim_set_vfs, "%llu\n");

static void vfsim_setup(struct net_device *netdev)
{
	ether_setup(netdev);
	netdev->ethtool_ops = &vfsim_ethtool_ops;
	eth_hw_addr_random(netdev);
}

static int vfsim_set_kind(struct net_device *netdev, const char *kind)
{
	if (!kind || !strcmp(kind, "ethernet")) {
		netdev->netdev_ops = &vfsim_ethernet_ops;
	} else if (!strcmp(kind, "infiniband")) {
		netdev->netdev_ops = &vfsim_infiniband_ops;
		netdev->type = ARPHRD_INFINIBAND;
		netdev->addr_len = INFINIBAND_ALEN;
	} else if (!strcmp(kind, "no-list")) {
		netdev->netdev_ops = &vfsim_no_list_ops;
	} else {
		return -EINVAL;
	}
	return 0;
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

	for (vf = 0; vf < pf->vfs; vf++)
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
	pf->vfs = pf->max_vfs = vfs[n];
	pf->vf = kvcalloc(pf->max_vfs, sizeof(*pf->vf), GFP_KERNEL);
	pf->netdev = alloc_netdev(sizeof(pf), "pf%d", NET_NAME_ENUM, vfsim_setup);
	if (!pf->vf || !pf->netdev) {
		err = -ENOMEM;
		goto free;
	}
	err = vfsim_set_kind(pf->netdev, kind[n]);
	if (err)
		goto free;
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
	pf->devlink = vfsim_devlink_alloc(&pf->dev);
	if (!pf->devlink) {
		err = -ENOMEM;
		goto unregister;
	}
	*(struct vfsim_pf **)devlink_priv(pf->devlink) = pf;
	SET_NETDEV_DEV(pf->netdev, &pf->dev);
	err = register_netdev(pf->netdev);
	if (err)
		goto free_devlink;
	vfsim_devlink_register(pf->devlink, &pf->dev);
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

	if (pfs < 1)
		return -EINVAL;
	for (n = 0; n < pfs; n++)
		if (vfs[n] < 0)
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
	debugfs_create_file("advance", 0200, debugfs, vfsim_advance, &vfsim_change_ops);
	debugfs_create_file("set", 0200, debugfs, vfsim_set, &vfsim_change_ops);
	debugfs_create_file("busy", 0200, debugfs, vfsim_busy, &vfsim_change_ops);
	debugfs_create_file("vfs", 0200, debugfs, NULL, &vfsim_set_vfs_ops);
	debugfs_create_u32("delay", 0600, debugfs, &delay);
	return 0;
}

module_init(vfsim_init);
module_exit(vfsim_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Network PFs with any number of VFs and known counters");
