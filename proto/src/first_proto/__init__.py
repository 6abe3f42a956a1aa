"""The contracts of FIRST gateway as Python code, generated: `first_proto.v1` and others."""
