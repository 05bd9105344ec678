"""The ``muster`` command: one module a noun, each parse → client → render; it uses only the public API."""
