"""WHERE it should be: pure functions from requests and an inventory to placements, or to why nothing fits."""
