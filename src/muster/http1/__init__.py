"""HTTP/1.1 messages for those who pass them on: what a head means, where a body ends, and how both are written anew.

Without I/O and without an opinion on where a message goes. The ingress and the gateway read with it what clients and
replicas send, so both refuse the same ambiguous messages.

    head_parser       one head in bytes as they arrive (llhttp)
    request_head      what a request's head means, and how it goes on
    response_head     the same of a response
    bodies            length, chunks, until the connection ends; and the writing of chunks
    load              the load of a replica as one header
"""
