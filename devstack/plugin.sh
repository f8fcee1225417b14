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

# DevStack plugin: GPUs for Nova

# Save trace setting
_XTRACE_NOVA_GPU=$(set +o | grep xtrace)
set +o xtrace

source $NOVA_GPU_DIR/devstack/mtty.sh

NOVA_GPU_WEIGHERS=nova_gpu.scheduler.weigher.GpuWeigher
NOVA_GPU_WEIGHERS+=,nova_gpu.scheduler.weigher.GpuAvoidWeigher

# nova_gpu_add LIST ITEMS: the comma-separated list and which items it lacks
function nova_gpu_add {
    local list=${1// /} item
    for item in ${2//,/ }; do
        if [[ ,$list, != *,$item,* ]]; then
            list+=${list:+,}$item
        fi
    done
    echo $list
}

# nova_gpu_remove LIST ITEMS: the comma-separated list without the items
function nova_gpu_remove {
    local list=,${1// /}, item
    for item in ${2//,/ }; do
        list=${list//,$item,/,}
    done
    list=${list#,}
    echo ${list%,}
}

# Nova looks for drivers below nova.virt only. DevStack installs it editable,
# so that what pip would put into site-packages/nova isn't seen: a link in
# Nova's tree is. (Our own editable install leaves the package out.)
function install_nova_gpu {
    setup_develop $NOVA_GPU_DIR
    if is_service_enabled n-cpu; then
        ln -sfn $NOVA_GPU_DIR/nova_gpu/virt/shim $NOVA_DIR/nova/virt/gpu
    fi
    if [[ "$GLOBAL_VENV" == True ]]; then
        sudo ln -sfn $DEVSTACK_VENV/bin/nova-gpu $NOVA_GPU_BIN_DIR/nova-gpu
    fi
}

function configure_nova_gpu_compute {
    # nova-compute reads NOVA_CPU_CONF, which DevStack makes from NOVA_CONF
    # when it starts the service: the second is for one that is running.
    local conf
    for conf in $NOVA_CONF $NOVA_CPU_CONF; do
        iniset $conf DEFAULT compute_driver gpu.GpuLibvirtDriver
        # The defaults, below /var/lib/nova, aren't the stack user's to write.
        iniset $conf gpu put_aside_dir $NOVA_GPU_DATA_DIR/put-aside
        iniset $conf gpu claims_file $NOVA_GPU_DATA_DIR/claims.json
    done
}

function configure_nova_gpu_scheduler {
    # It is enabled by NOVA_FILTERS, see settings.
    local filter=nova_gpu.scheduler.filter.GpuFilter filters weighers
    filters=$(iniget_multiline $NOVA_CONF filter_scheduler available_filters)
    filters=${filters:-nova.scheduler.filters.all_filters}
    filters=$(nova_gpu_add "${filters// /,}" $filter)
    iniset_multiline $NOVA_CONF filter_scheduler available_filters \
        ${filters//,/ }

    weighers=$(iniget $NOVA_CONF filter_scheduler weight_classes)
    weighers=${weighers:-nova.scheduler.weights.all_weighers}
    iniset $NOVA_CONF filter_scheduler weight_classes \
        "$(nova_gpu_add "$weighers" $NOVA_GPU_WEIGHERS)"
}

# Leave a configuration that Nova can run with once nova-gpu is gone.
function unconfigure_nova_gpu {
    local conf=$1 driver filters weighers
    driver=$(iniget $conf DEFAULT compute_driver)
    if [[ "$driver" == gpu.GpuLibvirtDriver ]]; then
        iniset $conf DEFAULT compute_driver libvirt.LibvirtDriver
    fi
    inidelete $conf gpu put_aside_dir
    inidelete $conf gpu claims_file

    filters=$(iniget $conf filter_scheduler enabled_filters)
    weighers=$(iniget $conf filter_scheduler weight_classes)
    if [[ -n "$filters" ]]; then
        iniset $conf filter_scheduler enabled_filters \
            "$(nova_gpu_remove "$filters" GpuFilter)"
    fi
    if [[ -n "$weighers" ]]; then
        iniset $conf filter_scheduler weight_classes \
            "$(nova_gpu_remove "$weighers" $NOVA_GPU_WEIGHERS)"
    fi
    filters=$(iniget_multiline $conf filter_scheduler available_filters)
    if [[ -n "$filters" ]]; then
        filters=$(nova_gpu_remove "${filters// /,}" \
            nova_gpu.scheduler.filter.GpuFilter)
        iniset_multiline $conf filter_scheduler available_filters \
            ${filters//,/ }
    fi
}

function clean_nova_gpu {
    local conf
    for conf in $NOVA_CONF $NOVA_CPU_CONF; do
        if [[ -f $conf ]]; then
            unconfigure_nova_gpu $conf
        fi
    done
    rm -f $NOVA_DIR/nova/virt/gpu
    sudo rm -rf $NOVA_GPU_DATA_DIR
    pip_uninstall nova-gpu
    if [[ "$GLOBAL_VENV" == True ]]; then
        sudo rm -f $NOVA_GPU_BIN_DIR/nova-gpu
    fi
}

case $NOVA_GPU_FAKE in
    '' | mtty) ;;
    *) die $LINENO "NOVA_GPU_FAKE is '$NOVA_GPU_FAKE', not 'mtty' or empty" ;;
esac

if is_service_enabled nova; then
    if [[ "$1" == "stack" && "$2" == "install" ]]; then
        echo_summary "Installing nova-gpu"
        install_nova_gpu
        if [[ -n "$NOVA_GPU_FAKE" ]] && is_service_enabled n-cpu; then
            install_mtty
        fi
    elif [[ "$1" == "stack" && "$2" == "post-config" ]]; then
        echo_summary "Configuring nova-gpu"
        if is_service_enabled n-cpu; then
            configure_nova_gpu_compute
        fi
        if is_service_enabled n-sch; then
            configure_nova_gpu_scheduler
        fi
    elif [[ "$1" == "stack" && "$2" == "extra" ]]; then
        if [[ -n "$NOVA_GPU_FAKE" ]] && is_service_enabled n-api; then
            create_mtty_flavors
        fi
    elif [[ "$1" == "stack" && "$2" == "test-config" ]]; then
        if [[ -n "$NOVA_GPU_FAKE" ]] && is_service_enabled tempest; then
            configure_mtty_tempest
        fi
    fi
fi

if [[ "$1" == "unstack" ]]; then
    # What else runs is Nova's own, which DevStack stops.
    if [[ -n "$NOVA_GPU_FAKE" ]] && is_service_enabled n-cpu; then
        unload_mtty
    fi
elif [[ "$1" == "clean" ]]; then
    if [[ -n "$NOVA_GPU_FAKE" ]] && is_service_enabled n-cpu; then
        clean_mtty
    fi
    clean_nova_gpu
fi

# Restore xtrace
$_XTRACE_NOVA_GPU
