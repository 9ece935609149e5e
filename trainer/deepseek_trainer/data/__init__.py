"""Corpora, token stores, the order of samples and the ledger of what was trained."""
