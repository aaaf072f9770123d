"""pytest-benchmark suites over the registry. A package, so that its conftest and tests/conftest do not clash."""
