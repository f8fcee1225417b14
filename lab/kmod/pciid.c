// SPDX-License-Identifier: GPL-2.0-only
/*
 * pciid: let an emulated PCI function read as another product.
 *
 *   modprobe pciid ids=0000:81:00.0=10de:2330:030200,0000:81:00.1=10de:22ba:040300
 *
 * QEMU has no H100. What sysfs, udev, libvirt and the matching of drivers use
 * is not the function's configuration space, but what the kernel has read of
 * it once: struct pci_dev. That is what changes here, and stays so after the
 * module has gone. Configuration space, and so a guest that gets the function,
 * still has the truth.
 */
#include <linux/module.h>
#include <linux/pci.h>

static char *ids[64];
static int count;
module_param_array(ids, charp, &count, 0444);
MODULE_PARM_DESC(ids, "address=vendor:device:class, all hexadecimal");

static int __init pciid_init(void)
{
	unsigned int domain, bus, slot, function, vendor, device, class;
	struct pci_dev *pdev;
	int i;

	for (i = 0; i < count; i++) {
		if (sscanf(ids[i], "%x:%x:%x.%x=%x:%x:%x", &domain, &bus, &slot,
			   &function, &vendor, &device, &class) != 7) {
			pr_err("pciid: %s is not address=vendor:device:class\n",
			       ids[i]);
			return -EINVAL;
		}
		pdev = pci_get_domain_bus_and_slot(domain, bus,
						   PCI_DEVFN(slot, function));
		if (!pdev) {
			pr_err("pciid: %s: no such function\n", ids[i]);
			return -ENODEV;
		}
		pdev->vendor = vendor;
		pdev->device = device;
		pdev->class = class;
		pdev->subsystem_vendor = vendor;
		pdev->subsystem_device = device;
		/* libvirt and udev look again */
		kobject_uevent(&pdev->dev.kobj, KOBJ_CHANGE);
		pci_dev_put(pdev);
	}
	return 0;
}

static void __exit pciid_exit(void)
{
}

module_init(pciid_init);
module_exit(pciid_exit);
MODULE_DESCRIPTION("Lab: PCI functions that read as other products");
MODULE_LICENSE("GPL");
