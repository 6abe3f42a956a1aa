"""Peers: other gateways as upstreams of this one, and this one as upstream of others."""
