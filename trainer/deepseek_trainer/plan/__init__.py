"""What a mesh costs before anything runs: memory, traffic and time by formulas. Importable without torch."""
