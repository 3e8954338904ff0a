"""The whole way of one model: compress, restore, inspect."""
