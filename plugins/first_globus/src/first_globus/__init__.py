"""FIRST gateway backend for clusters that Globus Compute reaches."""
