# Shortcuts for the scripts in scripts/.
.PHONY: run help test test-all check fix docs bench bundle fuzz chaos overload soak image smoke

run: ## install what serving needs into .venv, once, and serve on http://127.0.0.1:8000
	@scripts/run

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

test: ## install the test tools into .venv-test, check and test; five minutes on two cores
	@scripts/test

test-all: ## the same, then what needs minutes or another program
	@scripts/test-all

check: ## ruff, mypy, import-linter, known vulnerabilities
	@scripts/check

fix: ## format, and apply ruff's fixes
	@scripts/fix

docs: ## build the documentation's site in build/site
	@scripts/docs

bench: ## measure the service against the bare runtime; 20 minutes
	@scripts/bench

bundle: ## make the bundled model again; more than an hour: make bundle PHOTOGRAPHS=folder
	@scripts/bundle $(PHOTOGRAPHS)

fuzz: ## generated images, forms and requests; about an hour
	@scripts/fuzz

chaos: ## misbehaving clients against a server of yours: make chaos URL=http://127.0.0.1:8000
	@scripts/chaos $(URL)

overload: ## several times the load that the service can take; 10 minutes
	@scripts/overload

soak: ## 90% of the load that the service can take; half an hour
	@scripts/soak

RUNTIME ?= cpu
image: ## build the container image: make image, or RUNTIME=gpu with CUDA
	docker build --build-arg RUNTIME=$(RUNTIME) --build-arg REVISION=$$(git rev-parse HEAD) \
	    -t alexnet-service:$(RUNTIME) .

smoke: ## build the container image, run it, ask it
	@docker/smoke.sh
