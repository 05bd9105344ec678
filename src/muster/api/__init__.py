"""A request becomes wanted state: the AutoDL-compatible HTTP API, and our extensions under ``/api/v1/muster``."""
