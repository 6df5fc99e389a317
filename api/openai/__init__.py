"""The OpenAI-compatible door: models and agents behind OpenAI's wire format."""
