/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef LABGPU_CARD_H
#define LABGPU_CARD_H

#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/pci.h>

/* A vGPU type, and how much of a card's memory one takes. */
struct card_type {
	unsigned int id;
	const char *number;	/* the same, as a part of a file name */
	const char *name;
	unsigned int gib;
};

#define CARD_TYPES 5
#define CARD_GIB 48

/*
 * A card that is cut into vGPUs: on the physical function, or one on each of
 * its virtual functions. All of one card have the same size, unless mixed.
 */
struct card {
	struct kref ref;
	struct mutex lock;	/* of all below, and of its functions' types */
	const struct card_type *types;	/* CARD_TYPES that its product has */
	bool vendor_vfio;
	bool mig;
	bool mixed;
	unsigned int used;	/* GiB */
	unsigned int vgpus;
	const struct card_type *size;	/* of the first, while there is one */
};

const struct card_type *card_type_by_id(struct card *card, unsigned int id);
struct card *card_get(struct card *card);
void card_put(struct card *card);
unsigned int card_room(struct card *card, const struct card_type *type);
void card_take(struct card *card, const struct card_type *type);
void card_give(struct card *card, const struct card_type *type);

int labgpu_mdev_register(void);
void labgpu_mdev_unregister(void);
/* Offer mediated devices on a function of a card; undone by remove. */
int labgpu_mdev_probe(struct pci_dev *pdev, struct card *card);
void labgpu_mdev_remove(struct pci_dev *pdev);

/* Offer a virtual function by the vendor's own interface. */
int labgpu_vfio_probe(struct pci_dev *pdev, struct card *card);
void labgpu_vfio_remove(struct pci_dev *pdev);
extern const struct attribute_group *labgpu_vfio_groups[];
bool labgpu_vfio_is(struct device *dev);

#endif
