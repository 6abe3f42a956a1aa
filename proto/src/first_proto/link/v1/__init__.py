"""The contract first.link.v1; generated, see scripts/gen_protos.py."""
