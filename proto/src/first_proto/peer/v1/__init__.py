"""The contract first.peer.v1; generated, see scripts/gen_protos.py."""
