"""The rules, one file per theme. Each is a test; its docstring says where to look."""
