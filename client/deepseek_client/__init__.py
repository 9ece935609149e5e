"""DeepSeekJob's client package."""
