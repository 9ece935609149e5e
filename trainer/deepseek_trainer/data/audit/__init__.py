"""Which samples were really trained: what each rank writes down, and the proof from it that none was lost or repeated."""
