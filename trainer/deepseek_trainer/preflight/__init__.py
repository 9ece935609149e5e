"""The check of the gang before the first step: who takes part in all-reduces, and how fast. Nodes that don't are named."""
