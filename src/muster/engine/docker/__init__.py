"""Containers of a Docker Engine."""
