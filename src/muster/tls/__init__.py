"""Certificates: an authority of the installation's own, or what the operator gives.

::

    authority (signs) ▸ leaf ──┐
                               ├─ Pair ▸ certificate (which one is in force, and since when) ▸ context ▸ ingress
    the operator's two files ──┘
    authority, or the operator's tls_ca ▸ published ▸ endpoint sets, GET /api/v1/muster/ca

Needs ``cryptography``, which the base install does not have: only processes of the server side import it.
"""
