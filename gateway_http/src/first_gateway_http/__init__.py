"""The HTTP front of FIRST gateway: OpenAI and Anthropic dialects over the router."""
