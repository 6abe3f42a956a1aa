"""FIRST gateway backend for OpenAI-compatible and Anthropic APIs."""
