// SPDX-License-Identifier: GPL-2.0-only
/*
 * labgpu: vGPUs by the vendor's own interface, on kernels from 6.8 on.
 *
 * A virtual function gets a type by a write to nvidia/current_vgpu_type, and
 * is a VFIO device of its own then: guests get the function as it is bound.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

#include "card.h"

struct function {
	struct vfio_pci_core_device core;
	struct card *card;
	const struct card_type *type;
	unsigned int placement;
	bool open;
	char params[256];
};

static struct function *function_of(struct device *dev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(dev);

	return container_of(core, struct function, core);
}

static int function_open(struct vfio_device *vdev)
{
	struct function *function =
		container_of(vdev, struct function, core.vdev);
	int ret = -ENODEV;

	mutex_lock(&function->card->lock);
	if (function->type)
		ret = vfio_pci_core_enable(&function->core);
	if (!ret)
		function->open = true;
	mutex_unlock(&function->card->lock);
	if (!ret)
		vfio_pci_core_finish_enable(&function->core);
	return ret;
}

static void function_close(struct vfio_device *vdev)
{
	struct function *function =
		container_of(vdev, struct function, core.vdev);

	vfio_pci_core_close_device(vdev);
	mutex_lock(&function->card->lock);
	function->open = false;
	mutex_unlock(&function->card->lock);
}

static const struct vfio_device_ops function_ops = {
	.name = "labgpu-vfio",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = function_open,
	.close_device = function_close,
	.ioctl = vfio_pci_core_ioctl,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = vfio_pci_core_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

static ssize_t creatable_vgpu_types_show(struct device *dev,
					 struct device_attribute *attr,
					 char *buf)
{
	struct function *function = function_of(dev);
	struct card *card = function->card;
	int i, at = sysfs_emit(buf, "ID    : vGPU Name\n");

	mutex_lock(&card->lock);
	for (i = 0; i < CARD_TYPES && !function->type && !card->mig; i++)
		if (card_room(card, &card->types[i]))
			at += sysfs_emit_at(buf, at, "%-5u : %s\n",
					    card->types[i].id,
					    card->types[i].name);
	mutex_unlock(&card->lock);
	return at;
}
static DEVICE_ATTR_RO(creatable_vgpu_types);

static ssize_t current_vgpu_type_show(struct device *dev,
				      struct device_attribute *attr, char *buf)
{
	const struct card_type *type = function_of(dev)->type;

	return sysfs_emit(buf, "%u\n", type ? type->id : 0);
}

static int set_type(struct function *function, unsigned int id)
{
	struct card *card = function->card;
	const struct card_type *type = card_type_by_id(card, id);

	/* Nothing to free, or something in the way: read first. */
	if (!id == !function->type)
		return -EPERM;
	if (!id) {
		if (function->open)
			return -EBUSY;
		card_give(card, function->type);
		function->type = NULL;
		function->params[0] = 0;
		return 0;
	}
	if (!type)
		return -EINVAL;
	if (card->mig)
		return -EIO;	/* no GPU instance that it could be on */
	if (!card_room(card, type))
		return -EINVAL;
	function->placement = card->used;
	card_take(card, type);
	function->type = type;
	return 0;
}

static ssize_t current_vgpu_type_store(struct device *dev,
				       struct device_attribute *attr,
				       const char *buf, size_t count)
{
	struct function *function = function_of(dev);
	unsigned int id;
	int ret = kstrtouint(buf, 10, &id);

	if (ret)
		return ret;
	mutex_lock(&function->card->lock);
	ret = set_type(function, id);
	mutex_unlock(&function->card->lock);
	return ret ? ret : count;
}
static DEVICE_ATTR_RW(current_vgpu_type);

/* There are no GPU instances here, as on a card that isn't in MIG mode. */
static ssize_t gpu_instance_id_show(struct device *dev,
				    struct device_attribute *attr, char *buf)
{
	return -ENXIO;
}
static DEVICE_ATTR_RO(gpu_instance_id);

static ssize_t placement_id_show(struct device *dev,
				 struct device_attribute *attr, char *buf)
{
	struct function *function = function_of(dev);

	if (!function->type || !function->card->mixed)
		return -ENXIO;
	return sysfs_emit(buf, "%u\n", function->placement);
}
static DEVICE_ATTR_RO(placement_id);

static ssize_t vgpu_params_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", function_of(dev)->params);
}

static ssize_t vgpu_params_store(struct device *dev,
				 struct device_attribute *attr,
				 const char *buf, size_t count)
{
	struct function *function = function_of(dev);

	if (!function->type)
		return -EPERM;
	if (strscpy(function->params, buf, sizeof(function->params)) < 0)
		return -EINVAL;
	strim(function->params);
	return count;
}
static DEVICE_ATTR_RW(vgpu_params);

static struct attribute *function_attrs[] = {
	&dev_attr_creatable_vgpu_types.attr,
	&dev_attr_current_vgpu_type.attr,
	&dev_attr_gpu_instance_id.attr,
	&dev_attr_placement_id.attr,
	&dev_attr_vgpu_params.attr,
	NULL,
};

/* Cards themselves have none of it, nor functions with mediated devices. */
static umode_t visible(struct kobject *kobj, struct attribute *attr, int n)
{
	return labgpu_vfio_is(kobj_to_dev(kobj)) ? attr->mode :
						   SYSFS_GROUP_INVISIBLE;
}

static const struct attribute_group function_group = {
	.name = "nvidia",
	.attrs = function_attrs,
	.is_visible = visible,
};

const struct attribute_group *labgpu_vfio_groups[] = { &function_group, NULL };

/* Whether labgpu_vfio_probe has succeeded with a function. */
bool labgpu_vfio_is(struct device *dev)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	struct card *card;

	if (!pdev->is_virtfn)
		return false;
	card = pci_get_drvdata(pci_physfn(pdev));
	return card->vendor_vfio;
}

int labgpu_vfio_probe(struct pci_dev *pdev, struct card *card)
{
	struct function *function;
	int ret;

	function = vfio_alloc_device(function, core.vdev, &pdev->dev,
				     &function_ops);
	if (IS_ERR(function))
		return PTR_ERR(function);
	function->card = card_get(card);
	dev_set_drvdata(&pdev->dev, &function->core);
	ret = vfio_pci_core_register_device(&function->core);
	if (ret) {
		card_put(card);
		vfio_put_device(&function->core.vdev);
	}
	return ret;
}

void labgpu_vfio_remove(struct pci_dev *pdev)
{
	struct function *function = function_of(&pdev->dev);
	struct card *card = function->card;

	vfio_pci_core_unregister_device(&function->core);
	mutex_lock(&card->lock);
	if (function->type)
		card_give(card, function->type);
	mutex_unlock(&card->lock);
	vfio_put_device(&function->core.vdev);
	card_put(card);
}
