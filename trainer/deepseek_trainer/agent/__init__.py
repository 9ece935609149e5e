"""The agent: torchrun's elastic agent with membership from a file, a progress endpoint, orderly endings."""
