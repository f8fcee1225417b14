PYTHON ?= python3
VENV := .venv
TOX := $(VENV)/bin/tox

.PHONY: help setup demo test test-all bench clean
.PHONY: lab lab-shell lab-test lab-core lab-cloud-test lab-stop

help:
	@echo 'make demo      show what nova-gpu does, on made-up hosts'
	@echo 'make test      run the checks and every test; the last line counts'
	@echo 'make test-all  the same on every supported release of Nova'
	@echo 'make bench     measure (needs libvirt-dev and a C compiler)'
	@echo 'make lab       a guest with real VFIO, SR-IOV and libvirt, and no GPU'
	@echo 'make lab-shell commands in it; make lab-test tests; make lab-stop'
	@echo 'make lab-cloud-test  a whole OpenStack around it, tested'
	@echo 'make clean     remove what these made'
	@echo 'PYTHON=...     the Python to use; now $(PYTHON)'

# Run a tox environment: telling what is installed the first time, only its
# own output from then on.
define run
@[ -d .tox/$(1) ] || { \
    echo '== Nova, Placement and nova-gpu into .tox/$(1): a minute, once'; \
    $(TOX) run -e $(1) --notest; }
@$(TOX) run -qq -e $(1)
endef

setup: $(VENV)/ready $(VENV)/packages-test

demo: $(VENV)/ready
	$(call run,demo)

test: setup
	@tools/run-tests.sh

test-all: setup $(VENV)/packages-nova29
	@tools/run-tests.sh 29 31 33

bench: $(VENV)/ready $(VENV)/packages-bench
	$(call run,bench)

# The guest of lab/, see lab/README.rst. Its QEMU emulates: leave others first.
LAB := nice -n 10 $(VENV)/bin/python -m lab.guest

lab: $(VENV)/ready $(VENV)/packages-lab
	@$(LAB) status >/dev/null || $(LAB) start
	@$(LAB) install

lab-shell: $(VENV)/ready
	@$(LAB) shell

lab-test: $(VENV)/ready $(VENV)/packages-lab
	@$(LAB) test $(SCENARIOS)

# What CI runs of them, after make test.
lab-core: $(VENV)/ready $(VENV)/packages-lab
	@$(TOX) run -qq -e lab-core

# A whole OpenStack on loopback around the guest.
lab-cloud-test: $(VENV)/ready $(VENV)/packages-lab
	@nice -n 10 $(VENV)/bin/python -m lab.cloud test $(SCENARIOS)

lab-stop: $(VENV)/ready
	@$(LAB) stop

clean:
	rm -rf .tox $(VENV) build dist doc/build *.egg-info .stestr .coverage*
	rm -rf .mypy_cache .ruff_cache .hypothesis AUTHORS ChangeLog
	rm -f doc/source/_static/*.sample etc/nova-gpu/*.sample
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# New pins: new environments, since tox doesn't look into the files.
$(VENV)/ready: $(wildcard constraints*.txt)
	@echo '== Python environment $(VENV), once'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo '== Python 3.11 or newer is needed: make PYTHON=...'; false; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	    tools/install-packages.sh python3-venv
	@rm -rf .tox
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check \
	    -c constraints.txt bindep python-subunit tox
	@touch $@

# Most works without them: their absence stops nothing here.
$(VENV)/packages-%: bindep.txt $(VENV)/ready
	@if tools/install-packages.sh $$($(VENV)/bin/bindep --brief $*); \
	    then touch $@; fi
