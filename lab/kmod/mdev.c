// SPDX-License-Identifier: GPL-2.0-only
/* labgpu: vGPUs that are mediated devices. */
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include "card.h"

/* A file position holds the number of a region above its offset. */
#define REGION_SHIFT 40
#define REGION_OFFSET(pos) ((pos) & ((1ULL << REGION_SHIFT) - 1))
#define CONFIG_SIZE PCI_CFG_SPACE_SIZE
#define BAR_SIZE PAGE_SIZE

struct vgpu_type {
	struct mdev_type mdev;
	const struct card_type *type;
};

/* What offers mediated devices: a card, or one of its virtual functions. */
struct parent {
	struct mdev_parent mdev;
	struct card *card;
	bool is_function;
	bool taken;
	struct vgpu_type types[CARD_TYPES];
	struct mdev_type *list[CARD_TYPES];
};

/* A vGPU: configuration space, one page of memory, no interrupts. */
struct vgpu {
	struct vfio_device vdev;
	struct mutex lock;
	u8 config[CONFIG_SIZE];
	u8 memory[BAR_SIZE];
	char params[256];
};

static struct parent *parent_of(struct mdev_type *mdev_type)
{
	return container_of(mdev_type->parent, struct parent, mdev);
}

static const struct card_type *type_of(struct mdev_type *mdev_type)
{
	return container_of(mdev_type, struct vgpu_type, mdev)->type;
}

static unsigned int parent_room(struct mdev_type *mdev_type)
{
	struct parent *parent = parent_of(mdev_type);
	unsigned int room = card_room(parent->card, type_of(mdev_type));

	if (!parent->is_function)
		return room;
	return parent->taken ? 0 : min(1U, room);
}

static int parent_take(struct mdev_type *mdev_type)
{
	struct parent *parent = parent_of(mdev_type);
	int ret = -EUSERS;

	mutex_lock(&parent->card->lock);
	if (parent_room(mdev_type)) {
		card_take(parent->card, type_of(mdev_type));
		parent->taken = true;
		ret = 0;
	}
	mutex_unlock(&parent->card->lock);
	return ret;
}

static void parent_give(struct mdev_type *mdev_type)
{
	struct parent *parent = parent_of(mdev_type);

	mutex_lock(&parent->card->lock);
	card_give(parent->card, type_of(mdev_type));
	parent->taken = false;
	mutex_unlock(&parent->card->lock);
}

static unsigned int vgpu_available(struct mdev_type *mdev_type)
{
	struct card *card = parent_of(mdev_type)->card;
	unsigned int room;

	mutex_lock(&card->lock);
	room = parent_room(mdev_type);
	mutex_unlock(&card->lock);
	return room;
}

static ssize_t vgpu_description(struct mdev_type *mdev_type, char *buf)
{
	unsigned int gib = type_of(mdev_type)->gib;

	return sysfs_emit(buf, "num_heads=4, frl_config=60, framebuffer=%uM, "
			  "max_resolution=7680x4320, max_instance=%u\n",
			  gib * 1024, CARD_GIB / gib);
}

static void config_reset(struct vgpu *vgpu)
{
	u8 *config = vgpu->config;

	memset(config, 0, CONFIG_SIZE);
	*(__le16 *)&config[PCI_VENDOR_ID] = cpu_to_le16(PCI_VENDOR_ID_NVIDIA);
	*(__le16 *)&config[PCI_DEVICE_ID] = cpu_to_le16(0x2235);
	*(__le16 *)&config[PCI_CLASS_DEVICE] =
		cpu_to_le16(PCI_CLASS_DISPLAY_3D);
	*(__le16 *)&config[PCI_SUBSYSTEM_VENDOR_ID] =
		cpu_to_le16(PCI_VENDOR_ID_NVIDIA);
}

static void config_write(struct vgpu *vgpu, u64 offset, u8 value)
{
	u32 address;

	switch (offset) {
	case PCI_COMMAND:
		vgpu->config[offset] =
			value & (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
		break;
	case PCI_BASE_ADDRESS_0 ... PCI_BASE_ADDRESS_0 + 3:
		vgpu->config[offset] = value;
		/* Who writes ones reads the size. */
		address = le32_to_cpup((__le32 *)
				       &vgpu->config[PCI_BASE_ADDRESS_0]);
		*(__le32 *)&vgpu->config[PCI_BASE_ADDRESS_0] =
			cpu_to_le32(address & ~(u32)(BAR_SIZE - 1));
		break;
	}
}

/* The part of a region that an access is on, or NULL. */
static u8 *region(struct vgpu *vgpu, loff_t pos, size_t count)
{
	u64 index = pos >> REGION_SHIFT, offset = REGION_OFFSET(pos), size;
	u8 *base;

	switch (index) {
	case VFIO_PCI_CONFIG_REGION_INDEX:
		base = vgpu->config;
		size = CONFIG_SIZE;
		break;
	case VFIO_PCI_BAR0_REGION_INDEX:
		base = vgpu->memory;
		size = BAR_SIZE;
		break;
	default:
		return NULL;
	}
	return offset < size && count <= size - offset ? base + offset : NULL;
}

static ssize_t vgpu_read(struct vfio_device *vdev, char __user *buf,
			 size_t count, loff_t *ppos)
{
	struct vgpu *vgpu = container_of(vdev, struct vgpu, vdev);
	u8 *from = region(vgpu, *ppos, count);
	ssize_t ret = count;

	if (!from)
		return -EINVAL;
	mutex_lock(&vgpu->lock);
	if (copy_to_user(buf, from, count))
		ret = -EFAULT;
	mutex_unlock(&vgpu->lock);
	return ret;
}

static ssize_t vgpu_write(struct vfio_device *vdev, const char __user *buf,
			  size_t count, loff_t *ppos)
{
	struct vgpu *vgpu = container_of(vdev, struct vgpu, vdev);
	u8 *to = region(vgpu, *ppos, count);
	ssize_t ret = count;
	u8 value;
	size_t i;

	if (!to)
		return -EINVAL;
	mutex_lock(&vgpu->lock);
	if (*ppos >> REGION_SHIFT == VFIO_PCI_CONFIG_REGION_INDEX) {
		for (i = 0; i < count && ret > 0; i++) {
			if (get_user(value, buf + i))
				ret = -EFAULT;
			else
				config_write(vgpu, REGION_OFFSET(*ppos) + i,
					     value);
		}
	} else if (copy_from_user(to, buf, count)) {
		ret = -EFAULT;
	}
	mutex_unlock(&vgpu->lock);
	return ret;
}

static long vgpu_get_info(void __user *arg)
{
	unsigned long minsz = offsetofend(struct vfio_device_info, num_irqs);
	struct vfio_device_info info;

	if (copy_from_user(&info, arg, minsz) || info.argsz < minsz)
		return -EINVAL;
	info.argsz = minsz;
	info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = VFIO_PCI_NUM_REGIONS;
	info.num_irqs = VFIO_PCI_NUM_IRQS;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long vgpu_get_region(void __user *arg)
{
	unsigned long minsz = offsetofend(struct vfio_region_info, offset);
	struct vfio_region_info info;

	if (copy_from_user(&info, arg, minsz) || info.argsz < minsz)
		return -EINVAL;
	if (info.index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	info.offset = (u64)info.index << REGION_SHIFT;
	info.cap_offset = 0;
	info.size = 0;
	info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	if (info.index == VFIO_PCI_CONFIG_REGION_INDEX)
		info.size = CONFIG_SIZE;
	else if (info.index == VFIO_PCI_BAR0_REGION_INDEX)
		info.size = BAR_SIZE;
	else
		info.flags = 0;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long vgpu_get_irq(void __user *arg)
{
	unsigned long minsz = offsetofend(struct vfio_irq_info, count);
	struct vfio_irq_info info;

	if (copy_from_user(&info, arg, minsz) || info.argsz < minsz)
		return -EINVAL;
	if (info.index >= VFIO_PCI_NUM_IRQS)
		return -EINVAL;
	info.flags = 0;
	info.count = 0;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static long vgpu_ioctl(struct vfio_device *vdev, unsigned int cmd,
		       unsigned long arg)
{
	struct vgpu *vgpu = container_of(vdev, struct vgpu, vdev);

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return vgpu_get_info((void __user *)arg);
	case VFIO_DEVICE_GET_REGION_INFO:
		return vgpu_get_region((void __user *)arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		return vgpu_get_irq((void __user *)arg);
	case VFIO_DEVICE_RESET:
		mutex_lock(&vgpu->lock);
		config_reset(vgpu);
		mutex_unlock(&vgpu->lock);
		return 0;
	}
	return -ENOTTY;
}

static const struct vfio_device_ops vgpu_ops = {
	.name = "labgpu-mdev",
	.read = vgpu_read,
	.write = vgpu_write,
	.ioctl = vgpu_ioctl,
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
};

static ssize_t vgpu_params_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	struct vgpu *vgpu = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%s\n", vgpu->params);
}

static ssize_t vgpu_params_store(struct device *dev,
				 struct device_attribute *attr,
				 const char *buf, size_t count)
{
	struct vgpu *vgpu = dev_get_drvdata(dev);

	if (strscpy(vgpu->params, buf, sizeof(vgpu->params)) < 0)
		return -EINVAL;
	strim(vgpu->params);
	return count;
}
static DEVICE_ATTR_RW(vgpu_params);

static struct attribute *vgpu_attrs[] = {
	&dev_attr_vgpu_params.attr,
	NULL,
};

static const struct attribute_group vgpu_group = {
	.name = "nvidia",
	.attrs = vgpu_attrs,
};

static const struct attribute_group *vgpu_groups[] = { &vgpu_group, NULL };

static int vgpu_probe(struct mdev_device *mdev)
{
	struct vgpu *vgpu;
	int ret = parent_take(mdev->type);

	if (ret)
		return ret;
	vgpu = vfio_alloc_device(vgpu, vdev, &mdev->dev, &vgpu_ops);
	if (IS_ERR(vgpu)) {
		ret = PTR_ERR(vgpu);
		goto give;
	}
	mutex_init(&vgpu->lock);
	config_reset(vgpu);
	dev_set_drvdata(&mdev->dev, vgpu);
	ret = vfio_register_emulated_iommu_dev(&vgpu->vdev);
	if (!ret)
		return 0;
	vfio_put_device(&vgpu->vdev);
give:
	parent_give(mdev->type);
	return ret;
}

static void vgpu_remove(struct mdev_device *mdev)
{
	struct vgpu *vgpu = dev_get_drvdata(&mdev->dev);

	/* Waits for whoever has it open. */
	vfio_unregister_group_dev(&vgpu->vdev);
	vfio_put_device(&vgpu->vdev);
	parent_give(mdev->type);
}

static struct mdev_driver vgpu_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.driver = {
		.name = "nvidia-vgpu-vfio",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
		.dev_groups = vgpu_groups,
	},
	.probe = vgpu_probe,
	.remove = vgpu_remove,
	.get_available = vgpu_available,
	.show_description = vgpu_description,
};

/* Takes over the caller's reference to the card, if it succeeds. */
int labgpu_mdev_probe(struct pci_dev *pdev, struct card *card)
{
	struct parent *parent;
	int i, ret;

	parent = kzalloc(sizeof(*parent), GFP_KERNEL);
	if (!parent)
		return -ENOMEM;
	parent->card = card;
	parent->is_function = pdev->is_virtfn;
	for (i = 0; i < CARD_TYPES; i++) {
		parent->types[i].type = &card->types[i];
		parent->types[i].mdev.sysfs_name = card->types[i].number;
		parent->types[i].mdev.pretty_name = card->types[i].name;
		parent->list[i] = &parent->types[i].mdev;
	}
	ret = mdev_register_parent(&parent->mdev, &pdev->dev, &vgpu_driver,
				   parent->list, CARD_TYPES);
	if (ret)
		kfree(parent);
	else
		pci_set_drvdata(pdev, parent);
	return ret;
}

void labgpu_mdev_remove(struct pci_dev *pdev)
{
	struct parent *parent = pci_get_drvdata(pdev);

	mdev_unregister_parent(&parent->mdev);
	card_put(parent->card);
	kfree(parent);
}

int labgpu_mdev_register(void)
{
	return mdev_register_driver(&vgpu_driver);
}

void labgpu_mdev_unregister(void)
{
	mdev_unregister_driver(&vgpu_driver);
}
