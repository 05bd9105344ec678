"""The ingress's ``http`` mode: one request at a time from a client to the container that its address means, and back.

    bytes ▸ client.py ──▸ head_parser (llhttp) ▸ request_head (checks, rewrites) ▸ gate.enter ──▸ backend.py ▸ container
            client.py ◂── bodies (framing) ◂── response_head (checks, rewrites) ◂──────────────── backend.py ◂ container
            answers.py: what the ingress says itself              exchange.py: one request, while it lasts

Callbacks of asyncio's protocols, no streams and no task per request: a request costs two small parses and two writes.
Nothing is ever held but one read and the transports' own bounded buffers; whoever is slow slows the other side down.

llhttp reads heads, and only heads: fed more, it would read on into the next pipelined request, which cannot be undone.
Bodies are framed by ``bodies``, and written anew, so what a container gets was understood here in exactly one way.
"""
