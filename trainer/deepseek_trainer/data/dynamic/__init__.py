"""Dynamic mode of the data plane: shards of the source are leased by the ranks while they train."""
