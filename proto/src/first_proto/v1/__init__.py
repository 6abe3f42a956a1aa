"""The contract first.v1; generated, see scripts/gen_protos.py."""
