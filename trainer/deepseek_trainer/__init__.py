"""DeepSeekJob's trainer package."""
