"""The API, pure: names that cross a boundary, the models of DeepSeekJob, the CRD."""
