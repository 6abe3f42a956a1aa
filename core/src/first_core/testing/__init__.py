"""What makes tests of backends and gateways easy: a simulated server, and more to come."""
