# make                Print this list.
# make demo           Show the main use, from end to end, in a few seconds.  Requires root.
# make check          Check types and style, and run the tests that need no root, engines or booted systemd, in under a minute.
# make lint           Check types and style only.
# make test           Run all tests, with the container engines that are installed.  ENGINES=all installs the others first.  An
#                     ordinary user runs those that need no root.
# make test-pythons   Run the tests of `make check` with each other Python from 3.11 to 3.13 that is installed.
# make test-debian    Run the targets TARGETS="demo test" on a clean Debian, which is installed into build/.  RELEASE=trixie chooses
#                     the release, PLACE=/checkout where in it the checkout is; ENGINES=all is as above.  Requires root.
# make test-places    Run the demo and some tests in checkouts below /tmp, in a user's home folder, in a path with spaces, and in
#                     sources that cannot be written.  Requires root.
# make dist           Build the source distribution and the wheel into build/dist, and check them with twine.
# make deb            Build the Debian package into build/deb, for the release that runs here (see debian/README.source).
# make test-deb       Build the Debian package on RELEASES="bookworm trixie"; install, upgrade and purge it there in a booted system,
#                     and call the broker as a user.  Requires root.
# make test-kernels   Run the demo and the tests on Linux 5.10, 6.1, 6.12 and Debian's newest in qemu, an hour each.
#                     KERNELS="bookworm/6.1" chooses the kernels.  Requires root.
# make test-forward   Move a gigabyte through each way of `nsbroker forward`, and 100 000 datagrams.  Requires root.
# make test-incus     Run the tests of incus in a Debian 13, which is installed into build/ (300 MB) and booted.  Requires root.
# make test-replacements  Replace containers of crun COUNT=1000 times, also with process numbers that come back, while processes in
#                     them ask the broker: ten minutes.  Requires root.
# make test-capture   Capture PACKETS=1000000 packets at RATE=100000 a second as a user without privilege, of which none may be
#                     missing, and run the tests of capturing, also with tshark, which is installed first.  Requires root.
# make test-browser   Test the page of `nsbroker map` in Chromium.  Requires root.
# make test-prometheus  Have a real Prometheus scrape `nsbroker exporter` beside containers of crun, compare each number with what
#                     nsenter(1) reads inside, and measure the scrape of a hundred containers.  Requires root.
# make test-image     Build the image, run it and call the broker in it; validate the Kubernetes examples.  Requires root.
# make bench          Measure the speed, compared with other programs in the same run, in under three minutes.  RIVALS=all installs
#                     these programs first (Go, socat).  BEFORE=COMMIT measures an older version in the same run.  Requires root.
# make profile        Show in which parts and functions broker and client spend the time of a call, beside the bare server, in a minute.
#                     Requires root.
# make attack-table   Run each attack of one hostile user alone, for SECONDS=20, and time the calls of an innocent user meanwhile.
#                     ATTACK=connect,linger chooses the attacks.  Requires root.
# make soak           Run all attacks in turn for MINUTES=10, by two users at a time, against the unit in a booted systemd, while
#                     root does everything that it may do, including restarts.  Every reply to an innocent user and to root is
#                     checked and timed.  ATTACK=connect,linger chooses the attacks.  Requires root.
# make soak-calls     Make a million calls of Open and a hundred thousand of OpenSocket, right and wrong ones, from clients that
#                     sometimes hang up, and see what the broker has left of them.  CALLS=... changes the number.  Requires root.
# make soak-via       Give SOCKETS=100000 sockets, twice, to one program under `nsbroker via`.  Descriptors, threads and memory of its
#                     supervisor must be as before.  Requires root.
# make fuzz           Test with a million valid and invalid inputs from hypothesis: messages, policies, names, files of engines and
#                     of /proc.  CALLS=..., FUZZ_SEED=... and SUBJECT=wire,names change the run.  Requires root.
# make map            Draw examples/map.svg again, from containers of crun and podman.
# make docs           Build the documentation: build/docs/html, and the man pages in build/docs/man.
# make generate       Generate the blocking client's methods from those of the async clients.
# make clean          Remove the Python packages and the files that the other commands built.
#
# Each command first installs the packages it needs: system packages with apt (as root), Python packages into VENV=.venv.
# BUILD=build is the folder for everything else that is built.  If the sources are read-only, set both.

PYTHON ?= /usr/bin/python3
VENV := .venv
HOST := tests/private-host
BUILD := build
INCUS := $(BUILD)/incus
DEBIAN := $(BUILD)/debian
RELEASE := trixie
RELEASES := bookworm trixie
PLACE := /checkout
TARGETS := demo test
MINUTES := 10
SECONDS := 20
SOCKETS := 100000
ATTACK :=
CALLS := 1000000
COUNT := 1000
PACKETS := 1000000
RATE := 100000
FUZZ_SEED := 0
UID := $(shell id -u)
# The sources may be read-only, or belong to another user.
export MYPY_CACHE_DIR := $(VENV)/.mypy_cache
export RUFF_CACHE_DIR := $(VENV)/.ruff_cache
export VENV
PYTEST := $(VENV)/bin/python -m pytest -q
AS_USER := $(HOST) --user $(PYTEST) -m "not root" $(PYTEST_ARGS)
AS_ROOT := ENGINES=$(ENGINES) $(HOST) $(PYTEST) -m "root or not once" $(PYTEST_ARGS)
# As root, AS_ROOT runs these tests, so AS_USER leaves them out.  Without root, only AS_USER runs them.
LIMITS := $(filter-out %/test_connections.py,$(wildcard tests/daemon/limits/test_*.py))
ALSO_AS_ROOT := $(if $(filter 0,$(UID)), \
    $(addprefix --ignore=,tests/attacks tests/daemon/discovery tests/daemon/engines $(LIMITS)))
BOOTED := { if command -v systemd-nspawn >/dev/null; then tests/boot-systemd $(PYTEST) tests/systemd $(PYTEST_ARGS); \
    else echo "left out: the tests in a booted systemd, because systemd-nspawn is missing (apt-get install systemd-container)"; \
    [ "$(ENGINES)" != all ]; fi; }
# Tests of code that depends on the kernel, run as on older kernels.  Each version lacks further features that nsbroker uses.
OLDER := tests/linux tests/namespace tests/daemon/targets/test_resolve.py tests/daemon/methods/test_authorization.py \
    tests/daemon/methods/test_explain.py tests/daemon/methods/test_service_info.py tests/daemon/test_dispatcher.py \
    tests/daemon/test_peer.py tests/daemon/test_without_peer_pidfd.py
ON_OLDER := for linux in $(if $(PYTEST_ARGS),,6.4 6.8 6.10 6.12); do echo "as on Linux $$linux:"; \
    tests/as-linux $$linux $(HOST) $(PYTEST) $(OLDER) || code=1; done
# The fast tests: what a change breaks first.
CHECKED := tests/capture tests/conduit tests/inside tests/linux tests/model tests/namespace tests/protocol tests/varlink tests/cli/drawing \
    $(addprefix tests/client/,test_asyncio.py test_blocking.py test_every_client.py test_trio.py) \
    tests/daemon/configuration tests/daemon/policy tests/daemon/targets $(addprefix tests/daemon/,test_audit.py test_dispatcher.py) \
    $(addprefix tests/daemon/methods/,test_explain.py test_held.py test_open.py test_open_socket.py test_service_info.py) \
    tests/docs tests/test_documents.py tests/test_floors.py tests/attacks/test_garbage.py tests/daemon/limits/test_deadline.py
LINT = $(VENV)/bin/ruff check --quiet && $(VENV)/bin/ruff format --check --quiet && $(VENV)/bin/mypy
MINOR := import sys; print(sys.version_info[:2])
KERNELS ?= bullseye/5.10 bookworm/6.1 trixie/6.12 newest

NEED_ROOT := demo test-kernels test-forward test-capture test-incus test-replacements test-browser test-prometheus test-image \
    test-debian test-deb test-places map bench profile soak \
    soak-calls soak-via attack-table fuzz
# This is said before anything is installed.
ifneq ($(UID),0)
$(foreach target,$(filter $(NEED_ROOT),$(MAKECMDGOALS)),$(error make $(target) requires root. \
    An ordinary user can run: make check, make test))
$(if $(filter all,$(ENGINES)),$(error ENGINES=all requires root))
endif

.PHONY: help $(NEED_ROOT) test test-pythons dist deb check docs generate lint clean
.NOTPARALLEL:
.PRECIOUS: $(DEBIAN)/%/.installed $(DEBIAN)/%-booted/.installed

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo
	@$(HOST) examples/demo.sh

# Three sequences of tests run in parallel.  In each sequence, all parts run, even when an earlier part failed.
test: $(VENV)/$(if $(filter all,$(ENGINES)),.engines,.development)
ifeq ($(UID),0)
	@# A user sees a folder such as /root through an overlay.  While modules are compiled below it, folders there can vanish.
	@$(VENV)/bin/python -m compileall -q nsbroker tests >/dev/null 2>&1 || true
	@tests/side-by-side 'code=0; $(AS_USER) $(ALSO_AS_ROOT) || code=1; $(ON_OLDER) || code=1; exit $$code' \
	    '$(AS_ROOT) --ignore=tests/engines' 'code=0; $(BOOTED) || code=1; $(AS_ROOT) tests/engines || code=1; exit $$code'
else
	@code=0; $(AS_USER) || code=1; \
	echo "left out, because they need root: container engines, a booted systemd, older kernels, other users"; exit $$code
endif

check: $(VENV)/.development
	@tests/side-by-side '$(HOST) --user $(PYTEST) -m "not root" $(CHECKED)' '$(LINT)'

test-pythons:
	@code=0; for python in python3.11 python3.12 python3.13; do \
	    found=$$($$python -c '$(MINOR)' 2>/dev/null) && [ "$$found" != "$$($(PYTHON) -c '$(MINOR)')" ] || continue; \
	    echo "$$python:"; $(MAKE) --no-print-directory check LINT=true PYTHON=$$python VENV=$(BUILD)/$$python || code=1; \
	done; exit $$code

test-debian: $(DEBIAN)/$(RELEASE)/.installed
	@PLACE='$(PLACE)' tests/on-debian $(DEBIAN)/$(RELEASE) .ci/run-targets ENGINES=$(ENGINES) $(TARGETS)

test-places:
	@tests/try-places

dist: $(BUILD)/.packager
	@rm -rf $(BUILD)/dist *.egg-info
	@$(BUILD)/packager/bin/python -m build --outdir $(BUILD)/dist . >$(BUILD)/dist.log || { cat $(BUILD)/dist.log; exit 1; }
	@$(BUILD)/packager/bin/twine check --strict $(BUILD)/dist/*

deb:
	@.ci/build-deb $(BUILD)/deb

test-deb: $(addprefix test-deb-,$(RELEASES))

test-deb-%: $(DEBIAN)/%/.installed $(DEBIAN)/%-booted/.installed
	@RESULTS=$(BUILD)/deb/$* tests/on-debian $(DEBIAN)/$* sh -c 'make deb && cp build/deb/*.deb /results'
	@tests/boot-systemd --root $(DEBIAN)/$*-booted tests/try-deb $(BUILD)/deb/$*

test-kernels:
	@tests/kernels/run $(KERNELS)

test-incus: $(INCUS)/.installed
	@tests/boot-systemd --root $(INCUS) /usr/bin/python3 -m pytest -q tests/incus $(PYTEST_ARGS)

test-replacements: $(VENV)/.engines
	@$(HOST) tests/in-own-pids $(VENV)/bin/python -m tests.engines.replacements $(COUNT)

test-capture: $(VENV)/.development
	@.ci/install-packages tcpdump tshark
	@$(HOST) $(VENV)/bin/python -m tests.capture.million $(PACKETS) $(RATE)
	@$(HOST) $(PYTEST) tests/capture $(addprefix tests/cli/commands/test_,capture.py extcap.py install_extcap.py) $(PYTEST_ARGS)

test-browser: $(VENV)/.development
	@command -v chromium chromedriver >/dev/null || { echo "installing chromium ..." && apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core; }
	@NSBROKER_BROWSER=1 $(HOST) $(VENV)/bin/python -m pytest -q tests/browser $(PYTEST_ARGS)

test-prometheus: $(VENV)/.development $(BUILD)/prometheus/.fetched
	@.ci/install-packages crun busybox-static
	@PROMETHEUS="$$(readlink -f $(BUILD)/prometheus)" $(HOST) $(VENV)/bin/python -m pytest -q -s tests/prometheus $(PYTEST_ARGS)

test-image: $(DEBIAN)/trixie/.installed $(BUILD)/.validator
	@$(BUILD)/validator/bin/kubernetes-validate --strict examples/kubernetes/*.yaml
	@tests/try-image "$$(readlink -f $(DEBIAN)/trixie)" "$$(readlink -f $(VENV))/bin/nsbroker"

map: $(VENV)/.engines
	@$(HOST) examples/draw_map.sh

bench: $(VENV)/$(if $(filter all,$(RIVALS)),.rivals,.development)
	@BEFORE='$(BEFORE)' $(HOST) $(VENV)/bin/python -m tests.bench

profile: $(VENV)/.development
	@$(HOST) $(VENV)/bin/python -m tests.bench.profile

lint: $(VENV)/.development
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

$(VENV)/.demo $(VENV)/.development $(VENV)/.docs $(VENV)/.engines $(VENV)/.rivals: pyproject.toml .ci/install
	@PYTHON=$(PYTHON) .ci/install $(VENV) $(@F)
	@touch $@

$(INCUS)/.installed: .ci/install-incus | $(VENV)/.development
	@.ci/install-incus $(VENV) $(INCUS)
	@touch $@

$(DEBIAN)/%-booted/.installed: debian/control
	@echo "installing the Debian in which the package is tried, $*, into $(@D) ..."
	@mkdir -p $(DEBIAN) && .ci/install-packages mmdebstrap systemd-container dbus
	@rm -rf --one-file-system $(@D)
	@mmdebstrap --quiet --variant=minbase --include=systemd-sysv,dbus,iproute2 \
	    --include="$$(sed -n '/^Package:/,$$s/^ \(python3-[a-z0-9]*\).*/\1/p' debian/control | paste -sd,)" $* $(@D)
	@touch $@

$(DEBIAN)/%/.installed:
	@echo "installing a minimal Debian, $*, into $(@D) ..."
	@mkdir -p $(DEBIAN) && .ci/install-packages mmdebstrap
	@rm -rf --one-file-system $(@D)
	@mmdebstrap --quiet --variant=minbase --include=ca-certificates,make $* $(@D)
	@touch $@

$(BUILD)/.validator: | $(VENV)/.engines
	@$(PYTHON) -m venv $(BUILD)/validator
	@$(BUILD)/validator/bin/pip install --quiet --disable-pip-version-check kubernetes-validate
	@touch $@

# Prometheus is only unpacked: installing it would start it.
$(BUILD)/prometheus/.fetched:
	@echo "fetching Prometheus into $(@D) ..."
	@rm -rf $(@D) && mkdir -p $(@D) && apt-get update -qq && cd $(@D) && apt-get download -qq prometheus && dpkg-deb -x *.deb .
	@touch $@

$(BUILD)/.packager: | $(VENV)/.development
	@$(PYTHON) -m venv $(BUILD)/packager
	@$(BUILD)/packager/bin/pip install --quiet --disable-pip-version-check build twine
	@touch $@

test-forward: $(VENV)/.development
	@BYTES=1073741824 DATAGRAMS=100000 $(HOST) $(PYTEST) --durations=0 $(addprefix tests/cli/commands/test_forward_,volume.py datagrams.py)

soak: $(VENV)/.development
	@.ci/install-packages systemd-container dbus crun busybox-static
	@tests/boot-systemd $(VENV)/bin/python -m tests.soak --minutes $(MINUTES) --attack '$(ATTACK)'

soak-calls: $(VENV)/.development
	@$(HOST) $(VENV)/bin/python -m tests.soak.calls --opens $(CALLS) --sockets $$(($(CALLS) / 10))

soak-via: $(VENV)/.development
	@SOCKETS=$(SOCKETS) $(HOST) $(PYTEST) --timeout 7200 tests/via/test_hostile.py -k many_sockets

attack-table: $(VENV)/.development
	@.ci/install-packages crun busybox-static
	@$(HOST) $(VENV)/bin/python -m tests.soak --plain --table --seconds $(SECONDS) --attack '$(ATTACK)'

fuzz: $(VENV)/.development
	@CALLS=$(CALLS) FUZZ_SEED=$(FUZZ_SEED) SUBJECT='$(SUBJECT)' $(HOST) $(VENV)/bin/python -m tests.fuzz

docs: $(VENV)/.docs
	@$(VENV)/bin/python -m docs.generate $(BUILD)/docs/source
	@$(VENV)/bin/python -m sphinx -q -W --keep-going -E -b html $(BUILD)/docs/source $(BUILD)/docs/html
	@$(VENV)/bin/python -m sphinx -q -W --keep-going -E -b man $(BUILD)/docs/source $(BUILD)/docs/man
	@echo "$(BUILD)/docs/html/index.html, and the man pages in $(BUILD)/docs/man"

generate: $(VENV)/.development
	@$(VENV)/bin/python -m tests.client.generate_blocking

clean:
	rm -rf --one-file-system $(VENV) $(BUILD) *.egg-info
