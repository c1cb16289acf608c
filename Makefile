# make demo    the main job, end to end, in a few seconds
# make test    all tests, of container engines against those that are installed; make test ENGINES=all installs the others
# make test-kernels   the demo and the tests in Linux 5.10, 6.1, 6.12 and Debian's newest, booted in qemu, an hour each; takes
#              root; make test-kernels KERNELS="bookworm/6.1" boots that one
# make test-incus   tests of incus, in a Debian 13 that is installed into build/ (300 MB) and booted; takes root
# make test-browser   the page of `nsbroker map` in a real Chromium; takes root
# make test-image   builds the image, runs it and asks it; validates the Kubernetes example; takes root
# make map     draws examples/map.svg anew, from containers of crun and podman
# make bench   speed, beside others, in one run
# make attack-table   each attack of one hostile user alone, for SECONDS=20, beside an innocent user whose calls are timed;
#              ATTACK=connect,linger chooses; takes root
# make soak    all attacks in turn, two users at a time, beside all that root may do, restarts included: against the unit in a
#              booted systemd, for MINUTES=10, while an innocent user's and root's every answer is checked and timed;
#              ATTACK=connect,linger chooses; takes root
# make fuzz    a million calls that hypothesis makes up, right ones and spoilt ones, of the wire, policies, names, files of
#              engines and of /proc; CALLS=..., FUZZ_SEED=..., SUBJECT=wire,names; takes root
# make lint    types and style alone
#
# Each installs what it needs, once: system packages with apt (as root), Python packages into .venv.

PYTHON ?= /usr/bin/python3
VENV := .venv
HOST := tests/private-host
INCUS := build/incus
DEBIAN := build/debian
MINUTES := 10
SECONDS := 20
ATTACK :=
CALLS := 1000000
FUZZ_SEED := 0
PYTEST := $(VENV)/bin/python -m pytest -q
AS_USER := $(HOST) --user $(PYTEST) -m "not root" $(PYTEST_ARGS)
AS_ROOT := ENGINES=$(ENGINES) $(HOST) $(PYTEST) -m "root or not once" $(PYTEST_ARGS)
# Root runs these as they are meant to be run; whoever is not root has them from the half of the user.
ALSO_AS_ROOT := $(if $(filter 0,$(shell id -u)),$(addprefix --ignore=tests/,attacks daemon/discovery daemon/engines daemon/limits))
BOOTED := { if command -v systemd-nspawn >/dev/null; then tests/boot-systemd $(PYTEST) tests/systemd $(PYTEST_ARGS); \
    elif [ "$(ENGINES)" = all ]; then echo "systemd-nspawn is missing" >&2; false; fi; }
# What differs between kernels, without each of the features that nsbroker asks for.
OLDER := tests/linux tests/daemon/test_peer.py tests/daemon/test_without_peer_pidfd.py tests/daemon/test_dispatcher.py \
    tests/namespace
ON_OLDER := for linux in $(if $(PYTEST_ARGS),,6.4 6.8 6.10 6.12); do echo "as on Linux $$linux:"; \
    tests/as-linux $$linux $(HOST) $(PYTEST) $(OLDER) || code=1; done
KERNELS ?= bullseye/5.10 bookworm/6.1 trixie/6.12 newest

.PHONY: demo test test-kernels test-incus test-browser test-image map bench soak attack-table fuzz lint clean

demo: $(VENV)/.demo
	@$(HOST) examples/demo.sh

# Three lanes side by side, in each of which every part runs whatever became of those before it.
test: $(VENV)/$(if $(filter all,$(ENGINES)),.engines,.development)
	@tests/side-by-side 'code=0; $(AS_USER) $(ALSO_AS_ROOT) || code=1; $(ON_OLDER) || code=1; exit $$code' \
	    '$(AS_ROOT) --ignore=tests/engines' 'code=0; $(BOOTED) || code=1; $(AS_ROOT) tests/engines || code=1; exit $$code'

test-kernels:
	@tests/kernels/run $(KERNELS)

test-incus: $(INCUS)/.installed
	@tests/boot-systemd --root $(INCUS) /usr/bin/python3 -m pytest -q tests/incus $(PYTEST_ARGS)

test-browser: $(VENV)/.development
	@command -v chromium chromedriver >/dev/null || { echo "installing chromium ..." && apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core; }
	@NSBROKER_BROWSER=1 $(HOST) $(VENV)/bin/python -m pytest -q tests/browser $(PYTEST_ARGS)

test-image: $(DEBIAN)/.installed build/.validator
	@build/validator/bin/kubernetes-validate --strict examples/kubernetes/*.yaml
	@tests/try-image $(CURDIR)/$(DEBIAN) $(CURDIR)/$(VENV)/bin/nsbroker

map: $(VENV)/.engines
	@$(HOST) examples/draw_map.sh

bench: $(VENV)/.development
	@$(HOST) $(VENV)/bin/python -m tests.bench

lint: $(VENV)/.development
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

$(VENV)/.demo $(VENV)/.development $(VENV)/.engines: pyproject.toml .ci/install
	@PYTHON=$(PYTHON) .ci/install $(VENV) $(@F)
	@touch $@

$(INCUS)/.installed: .ci/install-incus | $(VENV)/.development
	@.ci/install-incus $(VENV) $(INCUS)
	@touch $@

$(DEBIAN)/.installed: | $(VENV)/.engines
	@echo "installing Debian 13 into $(DEBIAN) ..."
	@mkdir -p build
	@command -v mmdebstrap >/dev/null || apt-get install -y -qq --no-install-recommends mmdebstrap
	@mmdebstrap --quiet --variant=minbase --include=ca-certificates trixie $(DEBIAN)
	@touch $@

build/.validator: | $(VENV)/.engines
	@$(PYTHON) -m venv build/validator
	@build/validator/bin/pip install --quiet --disable-pip-version-check kubernetes-validate
	@touch $@

soak: $(VENV)/.development
	@tests/boot-systemd $(VENV)/bin/python -m tests.soak --minutes $(MINUTES) --attack '$(ATTACK)'

attack-table: $(VENV)/.development
	@$(HOST) $(VENV)/bin/python -m tests.soak --plain --table --seconds $(SECONDS) --attack '$(ATTACK)'

fuzz: $(VENV)/.development
	@CALLS=$(CALLS) FUZZ_SEED=$(FUZZ_SEED) SUBJECT='$(SUBJECT)' $(HOST) $(VENV)/bin/python -m tests.fuzz

clean:
	rm -rf $(VENV) build *.egg-info
