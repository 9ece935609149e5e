"""The one adapter to Kubernetes: a thin asynchronous client on aiohttp. Nothing else sends a request."""
