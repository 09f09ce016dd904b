# The two commands a newcomer needs: `make demo` and `make test`. Everything they need beyond the toolchains they install.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
CARGO := cargo
export CARGO_TERM_COLOR ?= auto

help: ## What can be made
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: prepare ## Kafka, ClickHouse, all roles and simulated traffic, live for 90 s; KEEP=1 stays up
	$(CARGO) build --release --locked -p bounceflow -p bounceflow-stack -p bounceflow-demo
	target/release/demo $(if $(KEEP),--keep,)

test: prepare fmt lint purity deny sbom unit end-to-end ## Everything CI runs

prepare: ## What a build needs beyond the toolchains; installs it where it may
	@.ci/prepare

fmt: ## Format, checked
	$(CARGO) fmt --all --check

lint: ## Clippy, warnings are errors
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

purity: ## The pure crates stay pure
	.ci/purity

deny: .ci/bin/cargo-deny ## Licences, bans and sources of the dependencies
	.ci/bin/cargo-deny --locked check licenses bans sources

advisories: .ci/bin/cargo-deny ## Known vulnerabilities of the dependencies; needs the RustSec database from the network
	.ci/bin/cargo-deny --locked check advisories

sbom: .ci/bin/cargo-sbom ## Bill of materials of the binary (CycloneDX), checked against cargo's own list; to target/bounceflow.cdx.json
	.ci/sbom

# Built once, kept beside the project; a newer version is asked for here.
.ci/bin/cargo-sbom:
	$(CARGO) install --locked cargo-sbom --version 0.10.0 --root .ci --no-track

.ci/bin/cargo-deny:
	$(CARGO) install --locked cargo-deny --version 0.20.2 --root .ci --no-track

unit: ## Unit and property tests, and those of the crates against their own real servers
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked --exclude bounceflow-end-to-end

end-to-end: ## The whole path on real servers while processes are killed
	$(CARGO) build --release --locked -p bounceflow -p bounceflow-stack -p bounceflow-end-to-end
	$(CARGO) test --release --locked -p bounceflow-end-to-end -- --nocapture --test-threads=1

faults: prepare ## The fault matrix; CELL=name plays one, ROUNDS=3 all of them thrice, LIST=1 names them; figures to target/figures
	$(CARGO) build --release --locked -p bounceflow-stack -p bounceflow-faults --features bounceflow-faults/failpoints
	target/release/faults $(if $(LIST),--list) --rounds $(or $(ROUNDS),1) $(CELL)

k8s: prepare ## The Helm chart on a real Kubernetes API server, which the first run builds
	$(CARGO) test --locked -p bounceflow-deploy --test k8s -- --ignored --nocapture

bench: prepare ## Speed beside its ceiling, latency; figures to target/figures
	$(CARGO) build --release --locked -p bounceflow -p bounceflow-stack -p bounceflow-end-to-end -p bounceflow-bench
	$(CARGO) bench --locked -p bounceflow-bench --bench replies --bench overhead --bench window --bench pipeline --bench sink

bench-warehouse: prepare ## Every view on 100 M rates and 20 M failures; SIZE=0.05 for a twentieth; figures to target/figures
	$(CARGO) build --release --locked -p bounceflow-stack
	SIZE=$(or $(SIZE),1) $(CARGO) bench --locked -p bounceflow-bench --bench warehouse

# One after the other: there are few cores, and each step says what it found.
.NOTPARALLEL:
.PHONY: help prepare demo test fmt lint purity deny advisories sbom unit end-to-end faults k8s bench bench-warehouse
