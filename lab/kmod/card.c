// SPDX-License-Identifier: GPL-2.0-only
/*
 * labgpu: stands in for a vendor's driver that cuts cards into vGPUs.
 *
 * It calls itself "nvidia", takes what pciid has made read as NVIDIA's, and
 * shows the two interfaces that vGPUs have had:
 *
 *  - mediated devices (mdev.c), on a card without SR-IOV as many as fit, on
 *    the virtual functions of one with SR-IOV one each;
 *  - for the cards named by vendor_vfio=, the vendor-specific one (vfio.c).
 *
 * What a card has is 48 GiB, and one size of vGPU at a time: the types that
 * fit no longer go from all lists with the first that is made. There is no
 * GPU in it: a guest gets a device that answers, and no more.
 */
#include <linux/module.h>
#include <linux/slab.h>

#include "card.h"

#define MAX_CARDS 16

static char *vendor_vfio[MAX_CARDS];
static int vendor_vfio_count;
module_param_array(vendor_vfio, charp, &vendor_vfio_count, 0444);
MODULE_PARM_DESC(vendor_vfio, "cards with the vendor-specific interface");

static char *mixed[MAX_CARDS];
static int mixed_count;
module_param_array(mixed, charp, &mixed_count, 0444);
MODULE_PARM_DESC(mixed, "cards on which vGPUs of different sizes go together");

static char *mig[MAX_CARDS];
static int mig_count;
module_param_array(mig, charp, &mig_count, 0444);
MODULE_PARM_DESC(mig, "cards in MIG mode that have no GPU instance");

static const struct card_type a40_types[CARD_TYPES] = {
	{ 562, "562", "NVIDIA A40-8Q", 8 },
	{ 563, "563", "NVIDIA A40-12Q", 12 },
	{ 564, "564", "NVIDIA A40-16Q", 16 },
	{ 565, "565", "NVIDIA A40-24Q", 24 },
	{ 566, "566", "NVIDIA A40-48Q", 48 },
};

/* The numbers are not those of the vendor. */
static const struct card_type l40s_types[CARD_TYPES] = {
	{ 1155, "1155", "NVIDIA L40S-8Q", 8 },
	{ 1156, "1156", "NVIDIA L40S-12Q", 12 },
	{ 1157, "1157", "NVIDIA L40S-16Q", 16 },
	{ 1158, "1158", "NVIDIA L40S-24Q", 24 },
	{ 1159, "1159", "NVIDIA L40S-48Q", 48 },
};

#define PRODUCT_L40S 0x26b9

const struct card_type *card_type_by_id(struct card *card, unsigned int id)
{
	int i;

	for (i = 0; i < CARD_TYPES; i++)
		if (card->types[i].id == id)
			return &card->types[i];
	return NULL;
}

static bool listed(struct pci_dev *pdev, char *const *list, int count)
{
	int i;

	for (i = 0; i < count; i++)
		if (!strcmp(list[i], pci_name(pdev)))
			return true;
	return false;
}

static void card_free(struct kref *ref)
{
	kfree(container_of(ref, struct card, ref));
}

struct card *card_get(struct card *card)
{
	kref_get(&card->ref);
	return card;
}

void card_put(struct card *card)
{
	kref_put(&card->ref, card_free);
}

unsigned int card_room(struct card *card, const struct card_type *type)
{
	if (card->vgpus && !card->mixed && card->size != type)
		return 0;
	return (CARD_GIB - card->used) / type->gib;
}

void card_take(struct card *card, const struct card_type *type)
{
	card->size = type;
	card->used += type->gib;
	card->vgpus++;
}

void card_give(struct card *card, const struct card_type *type)
{
	card->used -= type->gib;
	card->vgpus--;
}

static int card_probe(struct pci_dev *pdev)
{
	struct card *card;
	int ret = 0;

	card = kzalloc(sizeof(*card), GFP_KERNEL);
	if (!card)
		return -ENOMEM;
	kref_init(&card->ref);
	mutex_init(&card->lock);
	card->types = pdev->device == PRODUCT_L40S ? l40s_types : a40_types;
	card->vendor_vfio = listed(pdev, vendor_vfio, vendor_vfio_count);
	card->mixed = listed(pdev, mixed, mixed_count);
	card->mig = listed(pdev, mig, mig_count);
	/* With SR-IOV the virtual functions offer what there is. */
	if (pci_sriov_get_totalvfs(pdev) > 0)
		pci_set_drvdata(pdev, card);
	else
		ret = labgpu_mdev_probe(pdev, card);
	if (ret)
		card_put(card);
	return ret;
}

static int labgpu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct pci_dev *pf = pci_physfn(pdev);
	struct card *card;

	if (pf->class >> 16 != PCI_BASE_CLASS_DISPLAY)
		return -ENODEV;
	if (!pdev->is_virtfn)
		return card_probe(pdev);
	/* sriov-manage brings the card back before its virtual functions. */
	if (pf->driver != pdev->driver)
		return -ENODEV;
	card = pci_get_drvdata(pf);
	return card->vendor_vfio ? labgpu_vfio_probe(pdev, card) :
				   labgpu_mdev_probe(pdev, card_get(card));
}

static void labgpu_remove(struct pci_dev *pdev)
{
	if (labgpu_vfio_is(&pdev->dev)) {
		labgpu_vfio_remove(pdev);
	} else if (!pdev->is_virtfn && pci_sriov_get_totalvfs(pdev) > 0) {
		/* Functions look for their card: they go first. */
		pci_disable_sriov(pdev);
		card_put(pci_get_drvdata(pdev));
	} else {
		labgpu_mdev_remove(pdev);
	}
}

static const struct pci_device_id labgpu_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_NVIDIA, PCI_ANY_ID) },
	{ }
};

/*
 * No sriov_configure: as with the vendor's driver, a plain write to
 * sriov_numvfs fails, and only sriov-manage enables virtual functions.
 */
static struct pci_driver labgpu_driver = {
	.name = "nvidia",
	.id_table = labgpu_ids,
	.probe = labgpu_probe,
	.remove = labgpu_remove,
	.dev_groups = labgpu_vfio_groups,
	.driver_managed_dma = true,
};

static int __init labgpu_init(void)
{
	int ret = labgpu_mdev_register();

	if (ret)
		return ret;
	ret = pci_register_driver(&labgpu_driver);
	if (ret)
		labgpu_mdev_unregister();
	return ret;
}

static void __exit labgpu_exit(void)
{
	pci_unregister_driver(&labgpu_driver);
	labgpu_mdev_unregister();
}

module_init(labgpu_init);
module_exit(labgpu_exit);
MODULE_DESCRIPTION("Lab: cards that are cut into vGPUs");
MODULE_LICENSE("GPL");
