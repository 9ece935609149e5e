"""DeepSeekJob's operator package."""
