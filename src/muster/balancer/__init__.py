"""Who gets this request: a sans-I/O core of small parts, and thin waiters and httpx transports on top of it."""
