"""DeepSeek-V3 architecture models from transformers, with random weights."""
