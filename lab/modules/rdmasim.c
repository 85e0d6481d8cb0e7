// SPDX-License-Identifier: GPL-2.0
/*
 * rdmasim - RDMA devices of PCI devices, with known counters.
 *
 * The parameter `parents` has the addresses of PCI devices: parents=0000:01:00.0,0000:01:10.0 creates
 * rdmasim0 and rdmasim1, each with one port, below them in sysfs. Counter i of device n is
 * 1000 * (n + 1) + i. The devices can be moved to another network namespace, as those of NICs can;
 * the kernel's own software devices, rdma_rxe and siw, cannot. Nothing can be sent with them.
 *
 * Unlike the rest of the project, this file is licensed under the GNU General Public License,
 * version 2.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/version.h>
#include <rdma/ib_verbs.h>

#define MAX_DEVICES 16

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 13, 0)
typedef u8 port_number;
#else
typedef u32 port_number;
#endif

static char *parents[MAX_DEVICES];
static int devices;
module_param_array(parents, charp, &devices, 0444);
MODULE_PARM_DESC(parents, "addresses of the PCI devices that get an RDMA device");

struct rdmasim {
	struct ib_device ib;
	int number;
};

static struct rdmasim *list[MAX_DEVICES];

/* Some of mlx5_core's. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 16, 0)
static const char *const counters[] = { "np_cnp_sent", "out_of_sequence", "rnr_nak_retry_err" };
#else
static const struct rdma_stat_desc counters[] = {
	{ .name = "np_cnp_sent" },
	{ .name = "out_of_sequence" },
	{ .name = "rnr_nak_retry_err" },
};
#endif

static struct rdma_hw_stats *rdmasim_alloc_stats(struct ib_device *ib, port_number port)
{
	return rdma_alloc_hw_stats_struct(counters, ARRAY_SIZE(counters),
					  RDMA_HW_STATS_DEFAULT_LIFESPAN);
}

static int rdmasim_get_stats(struct ib_device *ib, struct rdma_hw_stats *stats, port_number port,
			     int index)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(counters); i++)
		stats->value[i] = 1000 * (container_of(ib, struct rdmasim, ib)->number + 1) + i;
	return ARRAY_SIZE(counters);
}

static int rdmasim_query_device(struct ib_device *ib, struct ib_device_attr *attr,
				struct ib_udata *data)
{
	return 0;
}

static int rdmasim_query_port(struct ib_device *ib, port_number port, struct ib_port_attr *attr)
{
	attr->state = IB_PORT_ACTIVE;
	attr->phys_state = IB_PORT_PHYS_STATE_LINK_UP;
	return 0;
}

static int rdmasim_get_port_immutable(struct ib_device *ib, port_number port,
				      struct ib_port_immutable *immutable)
{
	immutable->core_cap_flags = RDMA_CORE_CAP_PROT_RAW_PACKET;
	return 0;
}

/* The kernel moves only devices that have this. There are no users to disassociate from. */
static void rdmasim_disassociate(struct ib_ucontext *context)
{
}

static const struct ib_device_ops rdmasim_ops = {
	.owner = THIS_MODULE,
	.driver_id = RDMA_DRIVER_UNKNOWN,
	.query_device = rdmasim_query_device,
	.query_port = rdmasim_query_port,
	.get_port_immutable = rdmasim_get_port_immutable,
	.disassociate_ucontext = rdmasim_disassociate,
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 14, 0)
	.alloc_hw_stats = rdmasim_alloc_stats,
#else
	.alloc_hw_port_stats = rdmasim_alloc_stats,
#endif
	.get_hw_stats = rdmasim_get_stats,
};

static int rdmasim_add(int n)
{
	struct device *parent = bus_find_device_by_name(&pci_bus_type, NULL, parents[n]);
	struct rdmasim *device;
	int err;

	if (!parent)
		return -ENODEV;
	device = ib_alloc_device(rdmasim, ib);
	if (!device) {
		put_device(parent);
		return -ENOMEM;
	}
	device->number = n;
	device->ib.node_type = RDMA_NODE_RNIC;
	device->ib.phys_port_cnt = 1;
	device->ib.num_comp_vectors = 1;
	device->ib.dev.parent = parent;
	ib_set_device_ops(&device->ib, &rdmasim_ops);
	err = ib_register_device(&device->ib, "rdmasim%d", NULL);
	put_device(parent); /* A registered device has a reference of its own. */
	if (err)
		ib_dealloc_device(&device->ib);
	else
		list[n] = device;
	return err;
}

static void rdmasim_exit(void)
{
	int n;

	for (n = 0; n < devices && list[n]; n++) {
		ib_unregister_device(&list[n]->ib);
		ib_dealloc_device(&list[n]->ib);
	}
}

static int __init rdmasim_init(void)
{
	int n;

	for (n = 0; n < devices; n++) {
		int err = rdmasim_add(n);

		if (err) {
			rdmasim_exit();
			return err;
		}
	}
	return 0;
}

module_init(rdmasim_init);
module_exit(rdmasim_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("RDMA devices of PCI devices, with known counters");
