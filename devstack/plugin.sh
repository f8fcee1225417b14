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

# Nova looks for drivers below nova.virt only. DevStack installs it editable,
# so that what pip would put into site-packages/nova isn't seen: a link in
# Nova's tree is. (Our own editable install leaves the package out.)
function install_nova_gpu {
    setup_develop $NOVA_GPU_DIR
    if is_service_enabled n-cpu; then
        ln -sfn $NOVA_GPU_DIR/nova_gpu/virt/shim $NOVA_DIR/nova/virt/gpu
    fi
}

function configure_nova_gpu_compute {
    # nova-compute reads NOVA_CPU_CONF, which DevStack makes from NOVA_CONF
    # when it starts the service: the second is for one that is running.
    local conf
    for conf in $NOVA_CONF $NOVA_CPU_CONF; do
        iniset $conf DEFAULT compute_driver gpu.GpuLibvirtDriver
        # The defaults, below /var/lib/nova, aren't the stack user's to write.
        iniset $conf gpu put_aside_dir $DATA_DIR/nova/gpu/put-aside
        iniset $conf gpu claims_file $DATA_DIR/nova/gpu/claims.json
    done
}

function configure_nova_gpu_scheduler {
    local filters
    filters=$(iniget $NOVA_CONF filter_scheduler enabled_filters)
    filters=${filters:-$NOVA_FILTERS}
    # Last, since it builds on what NUMATopologyFilter leaves.
    if [[ ,${filters// /}, != *,GpuFilter,* ]]; then
        filters+=,GpuFilter
    fi
    iniset $NOVA_CONF filter_scheduler enabled_filters "$filters"
    iniset_multiline $NOVA_CONF filter_scheduler available_filters \
        nova.scheduler.filters.all_filters \
        nova_gpu.scheduler.filter.GpuFilter

    local weighers=nova.scheduler.weights.all_weighers
    weighers+=,nova_gpu.scheduler.weigher.GpuWeigher
    weighers+=,nova_gpu.scheduler.weigher.GpuAvoidWeigher
    iniset $NOVA_CONF filter_scheduler weight_classes $weighers
}

function clean_nova_gpu {
    rm -f $NOVA_DIR/nova/virt/gpu
    pip_uninstall nova-gpu
}

if is_service_enabled nova; then
    if [[ "$1" == "stack" && "$2" == "install" ]]; then
        echo_summary "Installing nova-gpu"
        install_nova_gpu
    elif [[ "$1" == "stack" && "$2" == "post-config" ]]; then
        echo_summary "Configuring nova-gpu"
        if is_service_enabled n-cpu; then
            configure_nova_gpu_compute
        fi
        if is_service_enabled n-sch; then
            configure_nova_gpu_scheduler
        fi
    fi
    # stack extra, stack test-config and unstack: nothing runs but Nova's own
    # services, and DevStack starts and stops those.
fi

if [[ "$1" == "clean" ]]; then
    clean_nova_gpu
fi

# Restore xtrace
$_XTRACE_NOVA_GPU
