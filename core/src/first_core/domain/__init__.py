"""Rules of the product: no gRPC, no HTTP."""
