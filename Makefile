PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo docs test test-web web-demo

demo: $(VENV)/demo
	$(BIN)/python tools/compare.py models/digits_mobilenet_v3_small.onnx --data models/digits_test.npz --bits 2,4,8

# The first run installs PyTorch and torchvision, which download several GB.
test: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n 2 -m "not slow" --cov --cov-report=
	@echo "coverage of qqonnx: $$($(BIN)/coverage report --format=total)%"

# The documentation as a site: build/site/index.html
docs: $(VENV)/test
	$(BIN)/mkdocs build --quiet --strict

$(VENV)/demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e ".[images]"
	touch $@

$(VENV)/test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e ".[test]"
	touch $@

# The page in examples/web, with the models at every bit-width: http://localhost:8000
web-demo: $(VENV)/demo examples/web/node_modules
	$(BIN)/python examples/web/build.py
	$(BIN)/python -m http.server 8000 --directory examples/web

# For the sentence search also: .venv/bin/pip install -e ".[loaders]"
# Needs node, npm and Chromium (CHROMIUM=/usr/bin/chromium).
test-web: $(VENV)/test examples/web/node_modules
	$(BIN)/python examples/web/build.py
	$(BIN)/python -m pytest -m web tests/test_web.py tests/report/test_web.py

examples/web/node_modules: examples/web/package-lock.json
	cd examples/web && ONNXRUNTIME_NODE_INSTALL=skip npm ci
	touch $@
