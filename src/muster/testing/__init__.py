"""Worlds for tests: a fake engine, a clock that stands still, and a harness that settles the control plane."""
