"""The nouns of Muster: frozen values that every layer shares and that know nothing of any layer.

Import them from their modules (``from muster.model.container import Container``); this package re-exports nothing,
so that an import line says where a noun is defined.
"""
