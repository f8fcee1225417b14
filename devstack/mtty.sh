#!/bin/bash
# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

# The kernel's sample driver mtty: 24 serial ports, handed out as mediated
# devices of one port or two. Real for the kernel, libvirt and QEMU.

# Distributions leave the samples out of their kernels.
function install_mtty {
    if ! modinfo mtty >/dev/null 2>&1; then
        modinfo mdev >/dev/null 2>&1 || die $LINENO "This kernel has no" \
            "mediated devices (mdev): boot the generic one"
        build_mtty
    fi
    sudo modprobe mtty
}

function build_mtty {
    local kernel=${NOVA_GPU_MODULES##*/} version archive build
    is_ubuntu || die $LINENO "mtty isn't in this kernel, and it is built" \
        "from the kernel's sources on Debian and Ubuntu only"
    install_package linux-headers-$kernel linux-source
    # Of another version it doesn't build, or doesn't load.
    version=$(cut -d . -f 1,2 <<<$kernel)
    archive=$(ls $NOVA_GPU_KERNEL_SOURCES/linux-source-$version.*tar.* \
        $NOVA_GPU_KERNEL_SOURCES/linux-source-$version.*/linux-source-*.tar.* \
        2>/dev/null | sort --version-sort | tail -n 1)
    [[ -n "$archive" ]] || die $LINENO \
        "No linux-source-$version.tar.* in $NOVA_GPU_KERNEL_SOURCES, of the" \
        "kernel that runs: boot the one that package linux-source is of"
    build=$(mktemp --directory)
    tar --extract --file $archive --directory $build --strip-components 3 \
        --wildcards '*/samples/vfio-mdev'
    make -C $NOVA_GPU_MODULES/build M=$build CONFIG_SAMPLE_VFIO_MDEV_MTTY=m \
        modules
    sudo install -D -m 644 $build/mtty.ko $NOVA_GPU_MODULES/updates/mtty.ko
    sudo depmod
    rm -rf $build
}

# A guest that still runs keeps the module, and DevStack ends guests late.
function unload_mtty {
    if ! lsmod | grep -q '^mtty '; then
        return
    fi
    sudo modprobe -r mtty || echo "mtty stays loaded: a guest has a device"
}

function clean_mtty {
    unload_mtty
    sudo rm -f $NOVA_GPU_MODULES/updates/mtty.ko
    sudo depmod
}

# create_mtty_flavor ID NAME RESOURCE_CLASS
function create_mtty_flavor {
    # Of the size of tempest's own flavors.
    openstack --os-cloud devstack-admin flavor show $1 >/dev/null 2>&1 ||
        openstack --os-cloud devstack-admin flavor create --id $1 \
            --ram 192 --disk 1 --vcpus 1 --property resources:$3=1 $2
}

function create_mtty_flavors {
    create_mtty_flavor mtty1 mtty.single CUSTOM_VGPU_MTTY_SINGLE_PORT_SERIAL
    create_mtty_flavor mtty2 mtty.dual CUSTOM_VGPU_MTTY_DUAL_PORT_SERIAL
}

# Every server of tempest's gets a vGPU, and another when it is resized.
function configure_mtty_tempest {
    iniset $TEMPEST_CONFIG compute flavor_ref mtty1
    iniset $TEMPEST_CONFIG compute flavor_ref_alt mtty2
    # Refused for guests with vGPUs
    iniset $TEMPEST_CONFIG compute-feature-enabled suspend False
}
