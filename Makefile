# Shortcuts for the scripts in scripts/.
.PHONY: run test test-all check fix docs bench bundle fuzz chaos overload soak image smoke

run:
	@scripts/run

test:
	@scripts/test

test-all:
	@scripts/test-all

check:
	@scripts/check

fix:
	@scripts/fix

docs:
	@scripts/docs

bench:
	@scripts/bench

# make bundle PHOTOGRAPHS=...
bundle:
	@scripts/bundle $(PHOTOGRAPHS)

fuzz:
	@scripts/fuzz

# make chaos URL=http://127.0.0.1:8000
chaos:
	@scripts/chaos $(URL)

overload:
	@scripts/overload

soak:
	@scripts/soak

# make image RUNTIME=cpu
RUNTIME ?= gpu
image:
	docker build --build-arg RUNTIME=$(RUNTIME) --build-arg REVISION=$$(git rev-parse HEAD) \
	    -t alexnet-service:$(RUNTIME) .

smoke:
	@docker/smoke.sh
