# Names for the scripts, which hold everything there is to know.
.PHONY: run test check fix bench image smoke

run:
	@scripts/run

test:
	@scripts/test

check:
	@scripts/check

fix:
	@scripts/fix

bench:
	@scripts/bench

# make image RUNTIME=cpu
RUNTIME ?= gpu
image:
	docker build --build-arg RUNTIME=$(RUNTIME) -t alexnet-service:$(RUNTIME) .

smoke:
	@docker/smoke.sh
