"""The ingress: every container's own HTTPS or TCP address, told by route tables, telling the load."""
