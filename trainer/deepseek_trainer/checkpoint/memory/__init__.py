"""The last checkpoint once more, in the memory of the nodes: its own part and a neighbour's."""
