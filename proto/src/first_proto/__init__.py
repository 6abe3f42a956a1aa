"""The contracts of FIRST gateway as Python code: `first_proto.v1`, generated."""
