"""The router of FIRST gateway; what plugins may import stands in `first_core.plugin`."""
