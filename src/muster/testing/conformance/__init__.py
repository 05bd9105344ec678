"""Suites that every implementation of a port passes, fakes included; gated by capability, never by name."""
