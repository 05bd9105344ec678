"""Where complete endpoint sets are published and watched. ``port.py`` is the contract.

``connect(url)`` is the only way in: the scheme names the module, which is imported on first use.
"""
