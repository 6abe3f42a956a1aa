"""FIRST gateway backend for vLLM servers."""
