"""Where containers really run. ``port.py`` is the contract; each other module is one way to fulfil it.

``connect(url)`` is the only way in: the scheme names the module, which is imported on first use.
"""
