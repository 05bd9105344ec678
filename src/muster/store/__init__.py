"""What is wanted and what was seen: the only thing between the loops. ``port.py`` is the contract."""
